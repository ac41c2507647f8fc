"""MkDocs hooks: pages from files outside of `docs/`, and links that work both in the repository and on the site.

- FORMAT.md, the model cards, CONTRIBUTING.md and the notebooks become pages of the site (`PAGES`).
- A relative link to a file that is a page, or that lies in `docs/`, becomes a link to that page. One to any other file
  of the repository becomes plain text, as the site doesn't contain the file.
- `notes/index.md` lists the dated notes.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "format.md": "dac_codec/bitstream/FORMAT.md",
    "entropy.md": "dac_codec/bitstream/ENTROPY.md",
    "levels.md": "dac_codec/bitstream/LEVELS.md",
    "contributing.md": "CONTRIBUTING.md",
    **{f"models/{card.parent.name}.md": card.relative_to(ROOT).as_posix() for card in ROOT.glob("checkpoints/*/*.md")},
    **{f"notebooks/{path.stem}.md": f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")},
}
"""Page of the site -> file of the repository that it is made from."""

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES` and the list of notes."""
    for page, source in PAGES.items():
        if source.endswith(".ipynb"):
            files.append(File.generated(config, page, content=_cells(ROOT / source)))
        else:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    notes = sorted((ROOT / "docs/notes").glob("*.md"), reverse=True)
    items = [f"- [{_title(note)}]({note.name})" for note in notes if note.name != "index.md"]
    text = "# Notes\n\nExperiments and measurements, each as of its date.\n\n" + "\n".join(items) + "\n"
    if "notes/index.md" not in files.src_uris:
        files.append(File.generated(config, "notes/index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links, which are written for the repository."""
    here = page.file.src_uri
    source = PurePosixPath(PAGES.get(here, f"docs/{here}"))
    pages = {file: name for name, file in PAGES.items()}

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if ":" in target:
            return match[0]
        file = os.path.normpath(source.parent / target)
        if file in pages:
            name = pages[file]
        elif file.startswith("docs/") and file.removeprefix("docs/") in files.src_uris:
            name = file.removeprefix("docs/")
        else:
            return match["text"]
        relative = os.path.relpath(name, PurePosixPath(here).parent)
        return f"{match['image']}[{match['text']}]({relative}{match['anchor'] or ''})"

    return LINK.sub(rewrite, markdown)


def _cells(notebook: Path) -> str:
    """A notebook without outputs as Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts)


def _title(note: Path) -> str:
    """The first heading of a note."""
    lines = note.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), note.stem)
