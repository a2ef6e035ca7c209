"""What is done is known to all, whoever did it."""

from __future__ import annotations

import logging
import sqlite3

import pytest

from napari_memseg.inference.ledger import DONE, FAILED, Ledger, LedgerReader, Row, done_blocks, read_ledgers


def test_ledgers_of_several_writers_are_merged(tmp_path):
    with Ledger(tmp_path) as one, Ledger(tmp_path) as two:
        one.add([Row("first", (0, 0, 0)), Row("pyramid/1", (0, 0, 0))])
        two.add([Row("first", (0, 0, 1))])
        assert done_blocks(tmp_path) == {"first": {(0, 0, 0), (0, 0, 1)}, "pyramid/1": {(0, 0, 0)}}


def test_a_row_keeps_what_was_said_about_the_block(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add([Row("net", (1, 22, 3), DONE, "abc", 0.25)])
    (row,) = read_ledgers(tmp_path)
    assert (row.stage, row.block, row.status, row.xxh3, row.seconds) == ("net", (1, 22, 3), DONE, "abc", 0.25)
    assert row.utc.endswith("+00:00")


def test_a_failed_block_is_not_done_until_somebody_finishes_it(tmp_path):
    with Ledger(tmp_path) as one, Ledger(tmp_path) as two:
        one.add([Row("net", (0, 0, 0), FAILED)])
        assert done_blocks(tmp_path) == {}
        two.add([Row("net", (0, 0, 0), DONE)])
        assert done_blocks(tmp_path) == {"net": {(0, 0, 0)}}


def test_rows_are_added_all_or_none(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add([Row("net", (0, 0, 0))])
        with pytest.raises(AttributeError):
            ledger.add([Row("net", (0, 0, 1)), None])
        assert done_blocks(tmp_path) == {"net": {(0, 0, 0)}}


def test_a_writer_that_finished_nothing_leaves_no_file(tmp_path):
    with Ledger(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_reads_again_reads_just_what_is_new(tmp_path):
    reader = LedgerReader(tmp_path)
    with Ledger(tmp_path) as one, Ledger(tmp_path) as two:
        one.add([Row("net", (0, 0, 0), FAILED), Row("net", (0, 0, 1))])
        assert len(list(reader.new_rows())) == 2
        assert list(reader.new_rows()) == []
        two.add([Row("net", (0, 0, 2))])
        one.add([Row("net", (0, 0, 0)), Row("net", (0, 0, 3))])
        assert {(row.block, row.status) for row in reader.new_rows()} == {
            ((0, 0, 2), DONE),
            ((0, 0, 0), DONE),
            ((0, 0, 3), DONE),
        }
        one.add([Row("net", (0, 0, 3), FAILED)])
        assert [(row.block, row.status) for row in reader.new_rows()] == [((0, 0, 3), FAILED)]


def test_a_damaged_ledger_is_left_out_and_that_is_logged(tmp_path, caplog):
    with Ledger(tmp_path) as one, Ledger(tmp_path) as two:
        one.add([Row("net", (0, 0, 0))])
        two.add([Row("net", (0, 0, 1))])
    one.path.write_bytes(b"\0" * one.path.stat().st_size)
    with caplog.at_level(logging.WARNING):
        assert done_blocks(tmp_path) == {"net": {(0, 0, 1)}}
    assert f"{one.path} is damaged" in caplog.text


def test_a_ledger_that_is_busy_is_not_taken_for_damaged(tmp_path, monkeypatch):
    with Ledger(tmp_path) as ledger:
        ledger.add([Row("net", (0, 0, 0))])
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0))
    busy = connect(ledger.path, isolation_level=None)
    busy.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        done_blocks(tmp_path)
    busy.close()
