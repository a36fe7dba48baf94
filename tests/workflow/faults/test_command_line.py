"""Mistakes on the command line."""

from __future__ import annotations

import subprocess

from tiny_study import environment


def test_a_target_taken_for_a_config_file_is_told_apart(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    target = place.results / "flows" / "summary.json"
    target.parent.mkdir(parents=True)
    target.write_text('{"edges": 4}')
    command = [*place.command("-n"), str(target.relative_to(place.root))]
    done = subprocess.run(command, cwd=place.root, env=environment(), capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in output, output
    assert "edges: found 4" in output
    assert "read from study.yaml, results/tiny/flows/summary.json; a target goes before --configfile" in output
