"""A run as a job of Slurm: what sbatch is given, by a stand-in that keeps it, and what a task of the job does."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
SBATCH = """#!/bin/sh
cp "$1" {folder}/job.sh
echo Submitted batch job 4711
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what Slurm's commands were given."""
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("srun", "#!/bin/sh\n")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


JOB = ("train", "lenet5.modern", "--data", "digits", "--submit", "slurm", "--nodes", "4", "--devices", "8")


def test_what_slurm_is_asked_for(run: Run, cluster: Path) -> None:
    code, said, wrong = run(*JOB, "--slurm", "time=1440", "partition=gpu", "--epochs", "1", "--output", "here")
    assert (code, wrong) == (0, "")
    assert said.startswith("job 4711")
    script = (cluster / "job.sh").read_text()
    told = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.+)$", script, re.MULTILINE))
    assert {key: told[key] for key in ("nodes", "ntasks-per-node", "gpus-per-node", "time", "partition")} == {
        "nodes": "4",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "time": "1440",
        "partition": "gpu",
    }
    (kept,) = (cluster / "here" / "slurm").glob("*submitted.pkl")
    command = pickle.loads(kept.read_bytes()).function
    assert command.arguments == [*JOB[1:4], *JOB[6:], "--epochs", "1", "--output", "here"]


def test_a_task_trains_and_goes_on_when_queued_again(run: Run, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backbones.train.submit import Command

    command = Command(["lenet5.modern", "--data", "digits", "--epochs", "1", "--output", "here"], Path("here"))
    assert command.checkpoint().function.arguments == command.arguments
    monkeypatch.setattr(sys, "argv", ["submitit"])
    command()
    assert (cluster / "here" / "report.md").is_file()
    assert command.checkpoint().function.arguments == ["--resume", "here"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--slurm", "partition=gpu"), "--slurm time=1440"),
        (("--slurm", "gpu"), "give NAME=VALUE"),
        (("--slurm", "time=5", "--devices", "auto"), "needs the number of GPUs"),
    ],
)
def test_mistakes(run: Run, cluster: Path, flags: tuple[str, ...], said: str) -> None:
    code, _, wrong = run(*JOB, *flags)
    assert code == 2
    assert said in wrong
    assert not (cluster / "job.sh").exists()


def test_others_go_on_logging() -> None:
    """submitit sets up its log by closing all there is; keras' closes stderr with it."""
    code = """if True:
        import io, logging

        class Closing(logging.StreamHandler):
            def close(self):
                self.stream.close()

        stream = io.StringIO()
        logging.getLogger("other").addHandler(Closing(stream))
        import backbones.train.submit
        assert not stream.closed
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_slurm(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    code, _, wrong = run(*JOB, "--slurm", "time=5")
    assert code == 2
    assert "works where srun is" in wrong
