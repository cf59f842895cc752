"""The page of `actlab watch` in a browser, while another process records."""

import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection

import numpy as np
import pytest

IMAGE = "Bokeh.documents[0].get_model_by_name('image').data_source.data"


@pytest.fixture
def serve():
    """Return a function that starts `actlab watch` and returns its address; it ends by Ctrl-C, quietly."""
    started = []

    def begin(path, says=""):
        words = [sys.executable, "-m", "actlab", "watch", str(path), "--port", "0"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append((server, says))
        for line in server.stdout:
            if found := re.search(r"http://\S+", line):
                return found[0]
        raise AssertionError(server.stderr.read())

    yield begin
    for server, says in started:
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=30)
        assert server.returncode == 0
        assert says in err if says else err == "", err


@pytest.fixture
def open_page(browser):
    """Return a function that opens an address, and fails the test on an error or a request elsewhere."""
    contexts, said = [], []

    def begin(address, **options):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 2600}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda note: said.append(note.text) if note.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:")) else said.append(asked.url),
        )
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield begin
    for context in contexts:
        context.close()
    assert said == []


def facts(page, text):
    page.wait_for_function("text => document.getElementById('top').innerText.includes(text)", arg=text)


@pytest.mark.browser
def test_a_page_follows_the_run_from_before_its_beginning_to_its_end(path, start, serve, open_page):
    page = open_page(serve(path))
    facts(page, "is not there yet")
    writer = start()
    writer.commit(*range(4))
    facts(page, "4 batches")
    page.wait_for_function("document.getElementById('epoch-said').textContent === 'epoch 0, the latest'")
    page.wait_for_function(f"{IMAGE}.image[0].shape[1] === 4")
    tile = page.locator(".tile img").first.get_attribute("src")

    writer.commit(*range(4, 8))
    facts(page, "8 batches")
    page.wait_for_function("document.getElementById('epoch-said').textContent === 'epoch 1, the latest'")
    page.wait_for_function("document.getElementById('peaks-said').textContent.startsWith('epoch 1: train')")
    page.wait_for_function(f"{IMAGE}.image[0].shape[1] === 8")
    page.wait_for_function(f"document.querySelector('.tile img').src !== {tile!r}")

    page.locator("#epoch").fill("0")
    page.wait_for_function("document.getElementById('peaks-said').textContent.startsWith('epoch 0: train')")
    page.select_option("#layer-select", "body.relu")
    page.wait_for_function("document.getElementById('layer-said').textContent.startsWith('relu')")
    assert page.locator(".tile[aria-current=true]").get_attribute("data-layer") == "body.relu"

    writer.commit(8, value=np.nan)
    page.wait_for_function("document.getElementById('findings').innerText.includes('NaN')")
    writer.close()
    page.wait_for_function("document.getElementById('state').textContent === 'closed'")
    assert page.locator("#peaks-said").inner_text().startswith("epoch 0: ")  # what was chosen stays


@pytest.mark.browser
def test_a_page_survives_the_kill_of_the_writer_and_its_resume(path, killed, start, serve, open_page):
    killed(path, *range(6))
    page = open_page(serve(path))
    facts(page, "6 batches")
    facts(page, "stopped, or slow: nothing new for")
    start(resume_step=4).commit(4)
    facts(page, "5 batches")
    assert page.locator("#state").inner_text() == "running"


@pytest.mark.browser
def test_names_are_text_whatever_they_are(path, start, serve, open_page):
    names = ("</script><img src=x onerror=alert(1)>", "x" * 300, "fc")
    start().commit(*range(4), names=names)
    page = open_page(serve(path), color_scheme="dark")
    page.wait_for_selector(".tile img[src]")
    assert page.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.layer)") == list(names)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".tile").nth(1).click()
    page.wait_for_function("document.getElementById('layer-select').value.length === 300")


def test_nobody_else_may_look(path, start, serve):
    start().commit(0)
    address = serve(path, says="Refusing websocket connection from Origin 'http://elsewhere.example'")
    port = int(re.search(r":(\d+)/", address)[1])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port)):
        pass
    asking = HTTPConnection("127.0.0.1", port)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "x" * 22 + "==", "Origin": "http://elsewhere.example"}
    asking.request("GET", "/ws", headers=headers)
    assert asking.getresponse().status == 403
    asking.close()
