"""The command itself, on a few questions."""

import inspect
import json

import pytest

from eval.claims.runner import CLAIMS, ClaimsRun
from eval.launch import main


def run(out, *more):
    return main(["claims", "--smoke", "--cores", "1", "--out", str(out), *more])


def test_a_claim_is_measured_once_and_documented(tmp_path, capsys):
    assert run(tmp_path, "--only", "4") == 0
    first = capsys.readouterr()
    assert "claim 4: " in first.err
    found = json.loads((tmp_path / "claim-4.json").read_text())
    assert len(found["finding"]["checks"]) == 4
    assert len(found["finding"]["tables"][0]["rows"]) == 10
    text = (tmp_path / "claims.md").read_text()
    assert "No number here means anything" in text
    assert text.count("Not run yet") == len(CLAIMS) - 1

    assert run(tmp_path, "--only", "4") == 0
    assert "measured already" in capsys.readouterr().err
    assert (tmp_path / "claims.md").read_text() == text


def test_another_bundled_model_makes_old_just_the_claims_that_ask_it(tmp_path, monkeypatch):
    run_ = ClaimsRun(out=tmp_path)
    before = [run_.key(claim) for claim in CLAIMS]
    monkeypatch.setattr("eval.claims.runner.fingerprint", lambda name: "another")
    changed = [claim for claim, key in zip(CLAIMS, before, strict=True) if run_.key(claim) != key]
    assert changed == [claim for claim in CLAIMS if "answers(NANO" in inspect.getsource(claim.measure)]
    assert [claim.number for claim in changed] == [2, 4]


def test_the_plan_runs_nothing(tmp_path, capsys):
    assert run(tmp_path / "out", "--plan") == 0
    shown = capsys.readouterr().out
    assert all(f"claim {claim.number}: " in shown for claim in CLAIMS)
    assert "training pretrain" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--only", "12"), "--only 12: there are"), (("--cores", "0"), "--cores 0: use 1 or more")],
)
def test_bad_arguments_are_named(arguments, message, tmp_path, capsys):
    assert main(["claims", "--smoke", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_every_claim_runs_from_training_to_document(tmp_path):
    assert main(["claims", "--smoke", "--cores", "2", "--out", str(tmp_path)]) == 0
    assert "Not run yet" not in (tmp_path / "claims.md").read_text()
