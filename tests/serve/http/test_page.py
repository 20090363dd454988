"""The live page in a browser without a window, where Chromium is installed."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

import pytest
from engine_kit import Outcomes, compiled, tensors

from recfx.serve import Server

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_draws_the_load_of_each_model(tmp_path):
    with Server({"tiny": compiled(), "other": compiled()}, port=0) as server:
        outcomes = Outcomes()
        for number in range(12):
            server.models.get("tiny").submit(tensors(3), outcomes.of(number))
        outcomes.wait(12)
        with server.models.get("other").lock:
            server.models.get("other").statistics.answer(1.0, 2.0, 5, "1", late=True)
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        command += ["--virtual-time-budget=5000", "--dump-dom", server.address]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.split("<main")[1].split("<script")[0])).split())
    assert "2 model(s)" in page
    assert "tiny, version 1" in text
    assert "other, version 1" in text
    assert "12 requests, 36 rows" in text
    assert text.count("answered after their deadline 1 requests") == text.count("answered after their deadline") == 1
    assert page.count("<svg") == 6
    assert page.count("<rect") >= 3
