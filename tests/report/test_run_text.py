"""The texts about a run for the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.report.run_text import describe_run, summarize_run
from tests.report.conftest import EVIL, PAIRS, MadeRun, write_pairs


def test_the_summary_is_aligned_and_says_what_to_do_next() -> None:
    counts = {
        "index": {"images": 1234, "captions": 6170, "dropped.missing": 2, "dropped.not_an_image": 11},
        "shards": {"samples": 9876, "shards": 16, "dropped.truncated": 0},
    }
    lines = summarize_run(counts, Path("out dir")).splitlines()
    assert lines[0].split() == ["step", "kept", "dropped"]
    assert lines[1].index("6,170 captions, 1,234 images") == lines[0].index("kept")
    assert lines[1].index("11 not an image, 2 missing") == lines[0].index("dropped") == lines[2].index("-")
    text = "\n".join(lines)
    assert "9,876 samples in out dir/shards" in text
    assert "ovseg-mine verify 'out dir'" in text
    assert "ovseg-mine inspect 'out dir'" in text
    assert "'out dir/pairs.html'" in text
    assert max(map(len, lines)) <= 80


def test_many_reasons_are_continued_in_their_column() -> None:
    reasons = {f"dropped.reason_number_{i}": 100000 + i for i in range(6)}
    text = summarize_run({"nouns": {"nouns": 254112, "captions": 118287, **reasons}}, Path("out")).split("\n\n")[0]
    header, *lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 2
    assert all(line[: header.index("dropped")].strip() == "" for line in lines[1:])
    assert all(f"{number:,}" in text for number in reasons.values())


def test_a_description_has_counts_nouns_quantiles_and_pairs_by_similarity(made: MadeRun) -> None:
    text = describe_run(made[0], None, 10)
    assert "3 stop noun, 2 repeated" in text
    assert "The most common of 5 nouns" in text
    assert "0.120" in text
    assert "0.310" in text
    table = text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if "key " in x)) + 1 :]
    assert [line.split()[1] for line in table if line.startswith("  0")] == ["bus", "cat", "cat", "mat", "dog", "wall"]
    assert "two [cats] on a mat" in text
    assert "16.7%" in text
    assert EVIL.rsplit("dog", 1)[0] + "[dog]" in " ".join(text.split())
    assert table[-1].split()[1] == "wall"  # an annotated pair has no caption
    assert max(map(len, text.splitlines())) <= 80


def test_only_the_given_number_of_pairs_of_one_noun_is_described(made: MadeRun) -> None:
    text = describe_run(made[0], " Cat ", 1)
    assert "1 of 2 pairs of 'cat'" in text
    assert text.count("[cat") == 1
    assert "[bus]" not in text


def test_the_error_about_an_unknown_noun_names_similar_nouns(made: MadeRun) -> None:
    with pytest.raises(OvsegError, match=r"'buss'.*bus"):
        describe_run(made[0], "buss", 5)


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=rf"{tmp_path} .*index.*pairs"):
        describe_run(tmp_path, None, 5)


def test_a_caption_cannot_break_the_table_or_steer_the_terminal(made: MadeRun) -> None:
    import pyarrow.parquet as pq

    from ovseg.core import tables

    for path in tables.parts(made[0] / "index"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["captions"] = [{"id": c["id"], "text": c["text"] + "\x1b[2J\n\tend"} for c in row["captions"]]
        tables.write_part(path, "index", rows, "f")
    text = describe_run(made[0], None, 10)
    assert "\x1b" not in text
    assert "[bus] [2J end" in text


def test_pairs_without_any_similarity_are_described(made: MadeRun) -> None:
    write_pairs(made[0] / "pairs", [PAIRS[5]])
    assert "annotated pairs have no similarity" in describe_run(made[0], None, 5)
