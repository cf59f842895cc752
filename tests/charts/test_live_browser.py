"""A chart with Python behind it: zoomed with the mouse, it is drawn again from the recorded batches."""

import socket
import time

import panel
import pytest

from actlab.charts import colorful

STATE = """() => {
    const page = Bokeh.documents[0], image = page.get_model_by_name("image").data_source.data
    return {shape: image.image[0].shape, width: image.dw[0], height: image.dh[0],
            said: page.get_model_by_name("subtitle").text}
}"""


@pytest.mark.browser
def test_a_box_drawn_with_the_mouse_is_drawn_again(charted, browser):
    chart = colorful(charted.run, "grows", h_min=-3, h_max=5, n_bins=16, max_columns=7, width=700)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    served = panel.serve(
        {"/chart": lambda: panel.pane.HoloViews(chart)}, port=port, threaded=True, show=False, verbose=False
    )
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.05)
        # Panel asks the network for styles, and waits for what does not answer.
        page.route(
            "**/*", lambda route: route.continue_() if "localhost" in route.request.url else route.abort()
        )
        page.goto(f"http://localhost:{port}/chart")
        page.wait_for_function("window.Bokeh?.documents[0]?.get_model_by_name('image') != null")
        assert page.evaluate(STATE)["shape"] == [16, 7]
        width = page.evaluate(STATE)["width"]
        for _ in range(30):  # the tools come to life a little after the picture
            page.mouse.move(300, 150)
            page.mouse.down()
            page.mouse.move(420, 260, steps=5)
            page.mouse.up()
            page.wait_for_timeout(1000)
            if (state := page.evaluate(STATE))["width"] < width:
                break
        assert state["width"] < 26
        assert state["said"].startswith("one column = one batch")
        assert state["shape"][1] == state["width"]  # single batches
        assert state["shape"][0] / state["height"] in (2, 4, 8, 16, 32)  # bins are halves of halves
    finally:
        page.close()
        served.stop()
