"""The page in Firefox, where it is installed: by WebDriver BiDi, as Playwright starts no plain one."""

import asyncio
import json
import re
import shutil
import subprocess
import threading

import pytest
from tornado.websocket import websocket_connect

from actlab.pages.build import report

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")


class Firefox:
    """A Firefox without a window and with one tab."""

    def __init__(self, folder):
        options = ("--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(folder))
        self.process = subprocess.Popen([PROGRAM, *options], stderr=subprocess.PIPE, text=True)
        said = (re.search(r"BiDi listening on (ws://\S+)", line) for line in self.process.stderr)
        address = next(found[1] for found in said if found)
        self.loop, self.asked, self.events = asyncio.new_event_loop(), 0, []
        self.thread = threading.Thread(target=self.loop.run_forever)  # Playwright has this one
        self.thread.start()
        self.socket = self._wait(self._connect(f"{address}/session"))
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def _wait(self, promise):
        return asyncio.run_coroutine_threadsafe(promise, self.loop).result(60)

    async def _connect(self, address):
        return await websocket_connect(address)

    async def _answer(self, text):
        await self.socket.write_message(text)
        while (got := json.loads(await self.socket.read_message())).get("id") != self.asked:
            self.events.append(got["params"])
        return got

    def ask(self, method, **values):
        self.asked += 1
        text = json.dumps({"id": self.asked, "method": method, "params": values})
        got = self._wait(self._answer(text))
        assert got["type"] == "success", got
        return got["result"]

    def open(self, address):
        self.ask("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def evaluate(self, code):
        code = f"(async () => JSON.stringify(await ({code}) ?? null))()"
        got = self.ask("script.evaluate", expression=code, target={"context": self.tab}, awaitPromise=True)
        assert got["type"] == "success", got
        return json.loads(got["result"]["value"])

    def until(self, code):
        wait = "new Promise((done) => setTimeout(done, 25))"
        for _ in range(1200):
            if self.evaluate(code):
                return
            self.evaluate(wait)
        raise AssertionError(f"never: {code}")

    def press(self, key):
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.ask(
            "input.performActions",
            context=self.tab,
            actions=[{"type": "key", "id": "keyboard", "actions": actions}],
        )

    def close(self):
        self.loop.call_soon_threadsafe(self.socket.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


if PROGRAM is not None:  # a test that is not there is not skipped

    @pytest.fixture(scope="module")
    def firefox(tmp_path_factory):
        opened = Firefox(tmp_path_factory.mktemp("profile"))
        yield opened
        opened.close()

    @pytest.mark.browser
    def test_the_page_works_as_in_chromium(firefox, small_run, tmp_path):
        path = report(small_run, tmp_path / "small.html", h_min=-4, h_max=4, n_bins=40)
        firefox.open(path.as_uri())
        firefox.until("document.documentElement.dataset.ready === 'yes'")
        title = "document.getElementById('detail-title').textContent"
        assert firefox.evaluate(title).startswith("fc")
        firefox.press("]")
        firefox.until(f"{title}.startsWith('{small_run.names[0]}')")
        firefox.evaluate("location.hash = '#range=-1,1,20'")
        image = "Bokeh.documents[0].get_model_by_name('image').data_source.data.image[0]"
        firefox.until(f"{image}.shape[0] === 20")
        assert firefox.evaluate(f"[...{image}].some((count) => count > 0)")
        theme = "document.documentElement.dataset.theme"
        before = firefox.evaluate(theme)
        firefox.press("t")
        assert firefox.evaluate(theme) != before
        for width in (390, 1440):
            size = {"width": width, "height": 900}
            firefox.ask("browsingContext.setViewport", context=firefox.tab, viewport=size)
            assert firefox.evaluate("document.documentElement.scrollWidth <= innerWidth")
        asked = [event["request"]["url"] for event in firefox.events if "request" in event]
        assert all(url.startswith(("file:", "data:", "about:")) for url in asked)
        wrong = [event["text"] for event in firefox.events if event.get("level") in ("error", "warn")]
        assert wrong == []
