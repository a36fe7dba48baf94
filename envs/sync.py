"""Write envs/environment.yaml from envs/requirements.txt, and what conda users need of envs/demo.txt, so that they get the same versions."""

from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# The same versions as requirements.txt, for conda and containers; written by `python envs/sync.py`.
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


DEMO = """# Packages whose texts the demo reads, without what they depend on, which no entry of environment.yaml can say;
# Snakemake runs this once it has made that environment. Written by `python envs/sync.py`.
python -m pip install --no-deps {}
"""


def pins(name: str) -> list[str]:
    """The lines of a lock that are versions."""
    return [line for line in (HERE / name).read_text().splitlines() if line and not line.startswith("#")]


def files() -> dict[str, str]:
    """What is written, by file name."""
    return {
        "environment.yaml": HEAD + "".join(f"      - {pin}\n" for pin in pins("requirements.txt")),
        "environment.post-deploy.sh": DEMO.format(" ".join(pins("demo.txt"))),
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text)
