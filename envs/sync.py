"""Write envs/environment.yaml from envs/requirements.txt, so that conda users get the same versions."""

from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# The same versions as requirements.txt, for conda and containers; written by `python envs/sync.py`.
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment() -> str:
    """The conda environment, as text."""
    pins = [line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    return HEAD + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    (HERE / "environment.yaml").write_text(environment())
