"""Takes the pictures of docs/images/: python -m tests.analysis.screenshots report/index.html"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = {"light": (1280, 0, 1320), "dark": (1920, 1240, 1640)}  # width, top, height


def main() -> None:
    report = Path(sys.argv[1]).resolve()
    with sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme, (width, top, height) in PICTURES.items():
            page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 1000})
            page.goto(report.as_uri())
            page.wait_for_selector("body[data-ready=true]")
            whole = Image.open(BytesIO(page.screenshot(full_page=True)))
            path = IMAGES / f"report_{scheme}.png"
            shown = whole.crop((0, top, width, top + height)).convert("RGB")
            shown.save(path, optimize=True)  # fewer colours would lose those of small marks
            print(path)
        chromium.close()


if __name__ == "__main__":
    main()
