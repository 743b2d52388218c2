"""Look at a page in a real browser, headless Chromium, and say what a reader would see wrong."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")

_LOOK = """
<script>
function ink(image) {  // share of pixels that differ from the first one
  const canvas = document.createElement("canvas");
  canvas.width = 400; canvas.height = 300;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; pen.fillRect(0, 0, 400, 300); pen.drawImage(image, 0, 0, 400, 300);
  const data = new Uint32Array(pen.getImageData(0, 0, 400, 300).data.buffer);
  return data.filter(pixel => pixel !== data[0]).length / data.length;
}
function crossed(a, b) {  // share of the smaller box that lies on the other
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  const least = Math.min(a.width * a.height, b.width * b.height);
  return width > 0 && height > 0 && least > 0 ? width * height / least : 0;
}
function labels(svg, name) {
  const frame = svg.getBoundingClientRect(), found = [];
  const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
  const boxes = texts.map(text => {  // the letters alone: a line is higher than they are
    const {x, y, width, height} = text.getBoundingClientRect();
    return new DOMRect(x, y + 0.2 * height, width, 0.6 * height);
  });
  boxes.forEach((box, i) => {
    const words = texts[i].textContent.trim();
    if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2
        || box.bottom > frame.bottom + 2) found.push(`${name}: "${words}" is cut off`);
    for (let j = 0; j < i; j++)
      if (crossed(box, boxes[j]) > 0.25) found.push(`${name}: "${words}" lies on "${texts[j].textContent.trim()}"`);
  });
  return found;
}
window.addEventListener("load", async () => {
  const found = [], images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => 0)));
  for (const image of images) {
    const name = image.alt || image.src.slice(0, 60);
    if (!image.naturalWidth) found.push(`${name}: no image`);
    else if (ink(image) < 0.005) found.push(`${name}: blank`);
    if (image.src.startsWith("data:image/svg+xml;base64,")) {
      const holder = document.createElement("div");
      const bytes = Uint8Array.from(atob(image.src.split(",")[1]), character => character.charCodeAt(0));
      holder.innerHTML = new TextDecoder().decode(bytes);
      holder.style.width = image.width + "px";
      document.body.append(holder);
      found.push(...labels(holder.querySelector("svg"), name));
      holder.remove();
    }
  }
  document.querySelectorAll("svg").forEach((svg, i) => found.push(...labels(svg, "drawing " + i)));
  const over = document.documentElement.scrollWidth - innerWidth;
  if (over > 1) found.push(`the page is ${over} pixels wider than the window`);
  const pictures = images.length + document.querySelectorAll("svg").length;
  parent.postMessage("looked " + JSON.stringify({ found, pictures }), "*");
});
</script>
"""
_FRAME = """
<script>addEventListener("message", event => { document.title = event.data; });</script>
<iframe src="looked-at.html" style="border: 0; height: 1000px; width: %dpx"></iframe>
"""
"""Holds the page, because no window is narrower than 500 pixels."""


def look(page: Path, width: int = 1400) -> tuple[list[str], int]:
    """Return what is wrong with a page in a window of `width` pixels, and how many pictures it shows."""
    assert CHROMIUM is not None
    page.with_name("looked-at.html").write_text(page.read_text() + _LOOK)
    frame = page.with_name("frame.html")
    frame.write_text(_FRAME % width)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += [f"--window-size={width + 100},1100", f"--user-data-dir={page.parent / 'browser'}"]
    command = [CHROMIUM, *options, "--virtual-time-budget=20000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    title = re.search("<title>looked (.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr[-2000:]
    seen = json.loads(html.unescape(title[1]))
    return seen["found"], seen["pictures"]
