"""Loggers: nothing configured on import, one voice per distributed run."""

import logging
import subprocess
import sys

from vila_hd.utils import logging as ours


def test_importing_configures_nothing():
    program = (
        "import logging, vila_hd.utils.logging; "
        "assert not logging.root.handlers; assert not logging.getLogger('vila_hd').handlers"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_ranks_only_report_errors(monkeypatch, caplog):
    logger = ours.get_logger("vila_hd.test_ranks")
    monkeypatch.setattr(ours, "_rank", lambda: 1)
    logger.warning("unheard")
    logger.error("heard")
    monkeypatch.setattr(ours, "_rank", lambda: 0)
    logger.warning("first rank")
    assert [record.message for record in caplog.records] == ["heard", "first rank"]


def test_get_logger_adds_one_filter_only():
    loggers = [ours.get_logger("vila_hd.test_filters") for _ in range(3)]
    assert len(loggers[0].filters) == 1


def test_warn_once(caplog):
    logger = ours.get_logger("vila_hd.test_once")
    for _ in range(3):
        ours.warn_once(logger, "50 % slower")
    assert [record.message for record in caplog.records] == ["50 % slower"]


def test_terminal_lines_name_their_level(capsys):
    logger = logging.getLogger("vila_hd")
    before = (logger.handlers, logger.level, logger.propagate)
    try:
        ours.configure_for_terminal()
        ours.get_logger("vila_hd.test_terminal").warning("look here")
        ours.get_logger("vila_hd.test_terminal").info("not shown")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    assert capsys.readouterr().err == "WARNING: look here\n"
