"""The demo's job with several seeds: test accuracy, time to the first step, and time in all, on this machine.

python -m bench.bench_demo [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "mnist.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as folder:
        runs = [_run(seed, Path(folder)) for seed in range(arguments.seeds)]
    for run in runs:
        sys.stderr.write(json.dumps(run) + "\n")
    result = {
        "seeds": arguments.seeds,
        "meanTestAccuracy": round(statistics.mean(run["testAccuracy"] for run in runs), 4),
        "lowestTestAccuracy": round(min(run["testAccuracy"] for run in runs), 4),
        "medianFirstStepSeconds": statistics.median(run["firstStepSeconds"] for run in runs),
        "medianWholeSeconds": statistics.median(run["wholeSeconds"] for run in runs),
    }
    print(json.dumps(result))
    return 0


def _run(seed: int, folder: Path) -> dict[str, Any]:
    job = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["training"]["seed"] = seed
    manifest, run_folder = folder / f"{seed}.yaml", folder / f"run-{seed}"
    manifest.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "scaling_cli.main", "run", str(manifest), "--run-dir", str(run_folder)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole_s = time.monotonic() - started
    result = json.loads((run_folder / "result.json").read_text())
    timeline = json.loads((run_folder / "timeline" / "attempt-0001.json").read_text())
    return {
        "seed": seed,
        "testAccuracy": result["metrics"]["test"]["accuracy"],
        "testF1": result["metrics"]["test"]["f1"],
        "firstStepSeconds": timeline["seconds"]["firstStep"],
        "trainingSeconds": result["training"]["seconds"],
        "wholeSeconds": round(whole_s, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
