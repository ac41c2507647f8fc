"""Documentation and packaging: links, code blocks, lengths, and what each extra installs."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import dac_codec

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("checkpoints/*/*.md"),
        ROOT / "dac_codec/bitstream/FORMAT.md",
        ROOT / "dac_codec/bitstream/ENTROPY.md",
        ROOT / "dac_codec/bitstream/LEVELS.md",
        ROOT / "dac_codec/evaluation/NOTICE.md",
    ]
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)|(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

# Distribution -> module, where they differ.
MODULES = {"google-crc32c": "google_crc32c", "lightning-fabric": "lightning_fabric", "hydra-core": "hydra"}
MODULES |= {"visqol-python": "visqol", "faiss-cpu": "faiss", "huggingface-hub": "huggingface_hub"}

# Where the code that an extra serves is.
USERS = {
    "base": ["dac_codec"],
    "train": ["dac_codec", "scripts"],
    "hub": ["dac_codec/pretrained"],
    "onnx": ["dac_codec/interop"],
    "corpus": ["dac_codec/corpus"],
    "ray": ["dac_codec/corpus"],
    "evaluate": ["dac_codec/evaluation"],
    "dev": ["tests"],
}

# Tools that run as commands or plugins -> the file that names them, and how.
TOOLS = {
    "tensorboard": ("dac_codec/training/runlog.py", "import SummaryWriter"),
    "pytest-xdist": ("pyproject.toml", "--numprocesses"),
    "ruff": (".ci/run", "ruff check"),
    "mypy": (".ci/run", "mypy"),
    "import-linter": (".ci/run", "lint-imports"),
    "pre-commit": ("CONTRIBUTING.md", "pre-commit install"),
    "hatchling": ("tests/test_package.py", "--no-build-isolation"),
    "types-tqdm": ("dac_codec", "tqdm"),
    "mkdocs-material": ("mkdocs.yml", "name: material"),
    "mkdocstrings": ("mkdocs.yml", "mkdocstrings:"),
    "pesq": ("dac_codec/evaluation/metrics.py", '_imported("pesq"'),
    "pystoi": ("dac_codec/evaluation/metrics.py", '_imported("pystoi"'),
    "visqol-python": ("dac_codec/evaluation/metrics.py", '_imported("visqol"'),
}


def anchors(page: Path) -> set[str]:
    """The anchors of a Markdown page's headings, as forges and MkDocs make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+\s+(.*?)\s*$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        anchor = anchor.replace(" ", "-")
        while anchor in found:
            anchor += "-1"
        found.add(anchor)
    return found


@cache
def imported(folder: str) -> frozenset[str]:
    """The top-level modules that the Python files of a folder import, anywhere in them."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in ("import_module", "find_spec", "importorskip"):
                    modules.add(str(node.args[0].value).partition(".")[0])
    return frozenset(modules)


def requirements() -> list[tuple[str, str]]:
    """(extra, distribution) of pyproject.toml; the extra of the base install is "base"."""
    project = PYPROJECT["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    names = [(extra, re.split(r"[\[<>=!~; ]", line)[0]) for extra, lines in groups.items() for line in lines]
    return [(extra, name) for extra, name in names if name != "dac_codec"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_anchors(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in (first or second for first, second in LINK.findall(text)):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_site_shows_every_public_name() -> None:
    shown = re.findall(r"^::: dac_codec\.(\w+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(dac_codec.__all__)


def test_pages_of_the_navigation_exist() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\n\n")[0]
    made = {"format.md", "entropy.md", "levels.md", "contributing.md", "notes/index.md"}  # by docs/hooks.py
    for name in re.findall(r"(\S+\.md)$", navigation, re.MULTILINE):
        sources = [ROOT / "docs" / name, (ROOT / name).with_suffix(".ipynb")]
        assert name in made or name.startswith("models/") or any(map(Path.is_file, sources)), name


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_exist(page: str) -> None:
    names = re.findall(r"`([\w./-]+\.(?:py|md|yaml))`", (ROOT / page).read_text(encoding="utf-8"))
    assert names
    missing = []
    folder = ROOT
    for name in names:
        found = [base / name for base in (ROOT, ROOT / "dac_codec", folder) if (base / name).is_file()]
        folder = found[0].parent if found else folder
        missing += [] if found else [name]
    assert missing == []


def test_the_architecture_names_every_package() -> None:
    tree = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Repository")[2]
    packages = {path.parent.name for path in (ROOT / "dac_codec").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == packages


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 650


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{name}.md" for name in ("usage", "interop", "quantizers", "corpora"))]
)
def test_python_examples_compile(page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, page, "exec")


@pytest.mark.parametrize(("extra", "name"), requirements())
def test_every_requirement_is_used(extra: str, name: str) -> None:
    if name in TOOLS:
        place, text = TOOLS[name]
        path = ROOT / place
        files = path.rglob("*.py") if path.is_dir() else [path]
        assert any(text in file.read_text(encoding="utf-8") for file in files)
    else:
        assert any(MODULES.get(name, name) in imported(folder) for folder in USERS[extra])


def test_all_are_the_extras_of_users() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    (line,) = extras["all"]
    assert set(line.removeprefix("dac_codec[").removesuffix("]").split(",")) == extras.keys() - {"all", "dev", "docs"}


def test_every_requirement_is_described() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    sections = {"base": "Base install"}
    for extra, name in requirements():
        title = sections.get(extra, f"`{extra}`")
        section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert re.search(rf"(\| |, ){re.escape(name)}\b", section), f"{name} is missing from {title}"


def test_every_module_that_is_imported_is_required() -> None:
    required = {MODULES.get(name, name) for _, name in requirements()}
    # Codecs of other projects, which are measured if they are installed, and what requirements install.
    optional = {"encodec", "snac", "transformers", "dac", "audiotools", "omegaconf", "yaml", "PIL"}
    ours = {"dac_codec", *(path.stem for path in (ROOT / "scripts").rglob("*.py")), "scripts"}
    found = imported("dac_codec") | imported("scripts")
    assert found - required - optional - ours - sys.stdlib_module_names == set()


def python_files() -> list[Path]:
    return [path for folder in ("dac_codec", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_long() -> None:
    long = {path.relative_to(ROOT).as_posix(): n_lines(path) for path in python_files() if n_lines(path) > 450}
    assert long == {}


def test_the_package_stays_small() -> None:
    limit = 16_600  # codec, training and evaluation
    limit += 1_600  # the family of quantizers
    limit += 3_425  # search, rates that vary, entropy coding, layers, band levels
    limit += 2_410  # sound files whole or with a sentence; hostile and unlucky input; graphs and pickles of models
    limit += 130  # full disks, odd names, recordings after errors; runs and streams that are used again
    limit += 110  # the distance of compressed spectrograms; what a stranger's recording has
    limit += 336  # threads within layers, then pipelines; a short file is decoded once; no dilation on GPUs
    limit += 46  # levels of several segments side by side; loudness in one thread
    limit += 1_320  # refit, at another rate, --finetune; quantizers in the codec; codebook sizes; additive search
    limit += 1_930  # other layouts, the Hub, export to ONNX and torch.export, inputs as in transformers, the page
    limit += 1_650  # collections of sounds as codes: sources, shards, engines, data sets
    assert sum(n_lines(path) for path in python_files() if path.is_relative_to(ROOT / "dac_codec")) <= limit
