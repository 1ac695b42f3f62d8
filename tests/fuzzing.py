"""A seeded fuzzer of all readers: mutated examples must be read, or refused in one line; no row may disappear.

python tests/fuzzing.py --count 1000 [--seed 0] [READER ...]
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import random
import runpy
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments, read
from pluralign.judgments.annotator_weights import read_annotator_weights
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.votes import read_votes, votes_of, write_votes
from pluralign.judgments.votes.priors import read_priors
from pluralign.personas.questions import read_descriptions, read_personas
from pluralign.scoring.side_tables import response_table
from pluralign.workflows.importing import Imported, import_files
from pluralign.workflows.train.settings import read_yaml

CHAT = [{"role": "user", "content": "Tea?"}]
REPLY = {"role": "assistant", "replies": [], "deleted": False}
SOURCES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "helpsteer3": (
        {"mapping": "helpsteer3"},
        [{"context": CHAT, "response1": "yes", "response2": "no", "domain": "d",
          "individual_preference": [{"score": -3}, {"score": 0}]}] * 2,
    ),
    "nectar": (
        {"mapping": "nectar"},
        [{"prompt": "Tea?", "answers": [{"answer": "yes", "rank": 1.5}, {"answer": "no", "rank": 1.5}]}] * 2,
    ),
    "helpsteer2": ({"mapping": "helpsteer2"}, [{"prompt": "Tea?", "response": f"{n}", "helpfulness": n} for n in range(3)]),
    "chatbot-arena": (
        {"format": "chatbot-arena"},
        [{"conversation_a": [*CHAT, {"role": "assistant", "content": "yes"}], "winner": "model_b", "tstamp": 1682351591.1,
          "conversation_b": [*CHAT, {"role": "assistant", "content": "no"}], "judge": "arena_user_1"},
         {"prompt": '["Tea?"]', "response_a": '["yes"]', "response_b": '["no"]', "winner_tie": 1}],
    ),
    "oasst": (
        {"format": "oasst"},
        [{"message_tree_id": "t", "prompt": {"text": "Tea?", "role": "prompter", "message_id": "m", "replies": [
            {**REPLY, "text": "yes", "rank": 0}, {**REPLY, "text": "no", "rank": 1}]}}] * 2,
    ),
    "prism": (
        {"format": "prism"},
        [{"user_id": "u", "conversation_id": "c", "conversation_history": [
            {"turn": 0, "role": "user", "content": "Tea?"},
            {"turn": 0, "role": "model", "content": "yes", "score": 90, "if_chosen": True},
            {"turn": 0, "role": "model", "content": "no", "score": 10, "if_chosen": False}]}] * 2,
    ),
}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Delft"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOLS = [
    {"prompt": [*CHAT, CALLING, {"role": "tool", "content": "9", "tool_call_id": "c1", "name": "weather"}],
     "chosen": [{"role": "assistant", "content": "Cold."}], "rejected": [CALLING]},
    {"prompt": [
        {"role": "assistant", "content": [{"type": "text", "text": "Wait."},
                                          {"type": "tool_use", "id": "t1", "name": "weather", "input": {"town": "Delft"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "9"}]}]}],
     "chosen": "Cold.", "rejected": "Warm."},
]  # fmt: skip
CALLS = {
    "prompt": TOOLS[0]["prompt"][2:],
    "responses": [[{**CALLING, "content": ""}], TOOLS[0]["chosen"]],
    "ranks": [1, 2],
}
PAIRS = [{"prompt": f"Tea {n}?", "chosen": "yes, please", "rejected": "no", "weight": n + 1} for n in range(4)]
ROWS = [
    {"prompt": f"Tea {n}?", "responses": ["yes", "höh 🐦", "no"], "ranks": [1, None, 2], "annotator": f"a{n}",
     "labels": ["1", None, "5"], "weight": 0.5 + n, "time": "2024-05-31T12:00:00+02:00", "source": "s", "group": 7}
    for n in range(4)
]  # fmt: skip
HH = [
    {"chosen": f"\n\nHuman: Tea {n}?\n\nAssistant: Yes.", "rejected": f"\n\nHuman: Tea {n}?\n\nAssistant: No."}
    for n in range(3)
] + [{"text": ["Q\n\nAssistant: a", "Q\n\nAssistant: b"], "score": [2, 1.5]}]
TASKS = [
    {"id": n, "data": {"prompt": "Tea?", "answer1": "yes", "answer2": "no",
                       "items": [{"id": "a", "body": "yes"}, {"id": "b", "title": "no"}]},
     "annotations": [{"completed_by": {"id": 3, "email": "a@b.c"}, "created_at": "2024-05-31T12:00:00Z", "unique_id": f"u{n}",
                      "result": [{"type": "pairwise", "from_name": "better", "value": {"selected": "right"}},
                                 {"type": "ranker", "from_name": "rank", "value": {"ranker": {"rank": ["b", "a"]}}}]}]}
    for n in range(2)
]  # fmt: skip
RECORDS = [
    {"fields": {"prompt": "Tea?", "a": "yes", "b": "no", "response": "yes"},
     "responses": {"ranking": [{"value": ["b", "a"], "user_id": "u", "status": "submitted"}],
                   "rating": [{"value": 4, "user_id": "u"}]},
     "suggestions": {"rating": {"value": 3}}}
] * 2  # fmt: skip
FLAT = [
    {"prompt": "Tea?", "a": "yes", "b": "no", "ranking.responses": [["b", "a"], [{"value": "a", "rank": 1}, {"value": "b", "rank": 1}]],
     "ranking.responses.users": ["u", "v"], "ranking.responses.status": ["submitted", "draft"]}
]  # fmt: skip
MAPPING = (
    'tables: {t: {file: texts.csv, key: key}}\nprompt: "{topic}"\nresponses: ["{t[one].text}", "{t[two].text}"]\n'
    'choice: "{pick}"\nchoices: {1: [1, 2], 2: [2, 1], tie: [1, 1]}\nannotator: "{who}"\nweight: "{w}"\ntime: "{when}"\n'
)
VOTES = 'topic,one,two,pick,who,w,when\nTea,1,2,1,ann,1.5,2024-05-31\n"a ""quoted"" one",2,1.0,tie,,,\nx,1,2,2,7.0,2,\n'
TEXTS = "key,text\n1,yes\n2,no\n"
SCALE = "name: mood\nlabels: {good: 1, so-so: 0.5, 010: -1}\n"


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True)
class Reader:
    """Files by name, of which those listed in `mutated` are changed, and what reads them.

    `rows` says that every line of the first file is one row that gives one judgment.
    """

    files: dict[str, bytes]
    run: Callable[[Path, bool], Imported | None]
    mutated: tuple[str, ...]
    rows: bool = False


def _import(name: str, **options: Any) -> Callable[[Path, bool], Imported]:
    def run(folder: Path, skip: bool) -> Imported:
        given = {
            key: str(folder / value) if key == "mapping" and value.endswith(".yaml") else value
            for key, value in options.items()
        }
        if skip:
            given |= {"on_error": "skip", "rejects": folder / "bad.jsonl"}
        return import_files([folder / name], folder / "out.parquet", **given)

    return run


def _plain(name: str, function: Callable[[Path], Any]) -> Callable[[Path, bool], None]:
    def run(folder: Path, skip: bool) -> None:
        function(folder / name)

    return run


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def readers() -> dict[str, Reader]:
    """All readers by name."""
    scale = BUILT_IN_SCALES["1-to-5"]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "t.parquet"
        Judgments.from_rows(ROWS, scale).write(file)
        table = file.read_bytes()
        write_votes(votes_of(read(file)), file)
        state = file.read_bytes()
    weights = _parquet(pa.table({"annotator": ["a", "b"], "weight": [0.5, 1.0]}))
    polis = {
        "t.participants-votes.csv": "participant,group-id,n-agree,n-disagree,0,1\n7,0,1,1,1,-1\n8,,0,0,0,\n",
        "t.comments.csv": "comment-id,comment-body\n0,More trees\n1,Fewer cars\n",
        "t.summary.csv": "topic,The town\nurl,none\n",
    }
    preflib = (
        "# TITLE: Sushi\n# DATA TYPE: toi\n# NUMBER ALTERNATIVES: 3\n# NUMBER VOTERS: 5\n# NUMBER UNIQUE ORDERS: 3\n"
        "# ALTERNATIVE NAME 1: a\n# ALTERNATIVE NAME 2: b\n# ALTERNATIVE NAME 3: c\n2: 1,{2,3}\n2: 3\n1: 2,1\n"
    )
    texts: dict[str, tuple[dict[str, str], Callable[[Path, bool], Imported | None], tuple[str, ...], bool]] = {
        "table": ({"in.jsonl": _lines(ROWS)}, _import("in.jsonl", label_scale=scale), ("in.jsonl",), True),
        "table-chat": (
            {"in.jsonl": _lines([{"prompt": CHAT, "responses": [[{"role": "assistant", "content": text}] for text in "ab"],
                                  "ranks": [2, 1]}] * 3)},
            _import("in.jsonl"), ("in.jsonl",), True,
        ),
        "trl": ({"in.jsonl": _lines(PAIRS)}, _import("in.jsonl", format="trl"), ("in.jsonl",), True),
        "trl-csv": (
            {"in.csv": "prompt,chosen,rejected,weight,time,annotator\nTea?,yes,no,2,,7.0\nTea?,\"y\"\"es\",no,,2024-05-31,7\n"},
            _import("in.csv", format="trl"), ("in.csv",), False,
        ),
        "table-tools": ({"in.jsonl": _lines([CALLS] * 3)}, _import("in.jsonl"), ("in.jsonl",), True),
        "trl-tools": ({"in.jsonl": _lines(TOOLS)}, _import("in.jsonl", format="trl"), ("in.jsonl",), True),
        "hh-rlhf": ({"in.jsonl": _lines(HH)}, _import("in.jsonl", format="hh-rlhf"), ("in.jsonl",), True),
        "mapping": (
            {"in.csv": VOTES, "texts.csv": TEXTS, "map.yaml": MAPPING},
            _import("in.csv", format="mapping", mapping="map.yaml"), ("in.csv", "texts.csv", "map.yaml"), False,
        ),
        "polis": (polis, _import("t.participants-votes.csv", format="polis"), tuple(polis), False),
        "polis-people": (polis, _import("t.participants-votes.csv", format="polis", shape="people"), tuple(polis), False),
        "preflib": ({"v.toi": preflib}, _import("v.toi", format="preflib"), ("v.toi",), False),
        "label-studio": (
            {"in.json": json.dumps(TASKS)}, _import("in.json", format="label-studio"), ("in.json",), False,
        ),
        "argilla": (
            {"in.json": json.dumps(RECORDS)},
            _import("in.json", format="argilla", label_scale=scale, fields=("ranking=ranking", "rating=rating")),
            ("in.json",), False,
        ),
        "argilla-flat": ({"in.jsonl": _lines(FLAT)}, _import("in.jsonl", format="argilla"), ("in.jsonl",), False),
        **{
            name: ({"in.jsonl": _lines(rows)}, _import("in.jsonl", **options), ("in.jsonl",), False)
            for name, (options, rows) in SOURCES.items()
        },
        "le-wi-di": (
            {"in.json": json.dumps({"7": {"text": "Nice.", "annotations": "0,1", "annotators": "a,b"}})},
            _import("in.json", format="le-wi-di", label_scale=BUILT_IN_SCALES["binary"]), ("in.json",), False,
        ),
        "mapping-columns": (
            {"in.csv": "q,a,b,w,who,n\nTea?,yes,no,left,7.0,1\nTea?,no,\"y\"\"es\",right,,2.5\n",
             "map.yaml": "prompt: '{q}'\nresponses: ['{a}', '{b}']\nchoice: '{w}'\nannotator: '{who}'\nweight: '{n}'\n"
                         "choices: {left: [1, 2], right: [2, 1]}\n"},
            _import("in.csv", mapping="map.yaml"), ("in.csv", "map.yaml"), False,
        ),
        "polis-votes": (
            {**polis, "t.votes.csv": "timestamp,datetime,comment-id,voter-id,vote\n1717156800000,x,0,7,1\n2,x,1,7,-1\n"},
            _import("t.votes.csv", format="polis"), ("t.votes.csv", "t.comments.csv"), False,
        ),
        "scale": ({"s.yaml": SCALE}, _plain("s.yaml", label_scale), ("s.yaml",), False),
        "personas": (
            {"p.yaml": "- {name: Ann, description: A nurse.}\n- name: Bo\n  description: >\n    A cook.\n"},
            _plain("p.yaml", read_personas), ("p.yaml",), False,
        ),
        "descriptions": (
            {"d.yaml": "'0': bad\n'1': good\n"},
            _plain("d.yaml", lambda file: read_descriptions(file, BUILT_IN_SCALES["binary"])), ("d.yaml",), False,
        ),
        "config": ({"c.yaml": "objective: dpo\nlearning_rate: 1e-5\ntrain_files: [a, b]\n"}, _plain("c.yaml", read_yaml), ("c.yaml",), False),
        "priors": (
            {"p.csv": "prompt,response,0,1\nTea?,yes,1,3\nTea?,no,0.5,0.5\n"},
            _plain("p.csv", lambda file: read_priors(file, "labels", "text", BUILT_IN_SCALES["binary"])), ("p.csv",), False,
        ),
        "attributes": (
            {"a.csv": "prompt,response,minutes,price\nTea?,yes,30,1.5\nTea?,no,20,2\n"},
            _plain("a.csv", response_table), ("a.csv",), False,
        ),
    }  # fmt: skip
    found = {
        name: Reader({file: text.encode() for file, text in files.items()}, run, mutated, rows)
        for name, (files, run, mutated, rows) in texts.items()
    }
    found |= _known_sources(scale)
    found["parquet"] = Reader({"t.parquet": table}, _import("t.parquet"), ("t.parquet",))
    found["vote-state"] = Reader({"t.parquet": state}, _plain("t.parquet", read_votes), ("t.parquet",))
    found["annotator-weights"] = Reader(
        {"w.parquet": weights}, _plain("w.parquet", read_annotator_weights), ("w.parquet",)
    )
    return found


def _known_sources(scale: LabelScale) -> dict[str, Reader]:
    """The packaged mappings, the formats of known data sets and the containers, with the rows of their tests."""
    tests = runpy.run_path(str(Path(__file__).with_name("judgments") / "test_sources.py"))
    chat, node, arena = tests["chat"], tests["oasst_node"], tests["ARENA"]
    found = {}
    for name, (rows, _) in tests["CASES"].items():
        found[name] = Reader({"in.jsonl": _lines(rows).encode()}, _import("in.jsonl", mapping=name), ("in.jsonl",))
    replies = [
        node("Yes", "assistant", rank=0),
        node("No", "assistant", rank=1),
        node("Gone", "assistant", deleted=True),
    ]
    turns = [
        {"turn": 0, "role": "user", "content": "Tea?"},
        {"turn": 0, "role": "model", "content": "Yes", "score": 90, "if_chosen": True, "within_turn_id": 0},
        {"turn": 0, "role": "model", "content": "No", "score": 10, "if_chosen": False, "within_turn_id": 1},
    ]
    items = {
        "7": {"text": "Nice.", "annotations": "0,1", "annotators": "Ann1,Ann2"},
        "8": {"text": "Bad.", "annotations": {"Ann1": 1, "Ann3": 0}, "annotators": "Ann1,Ann3"},
    }
    kaggle = (
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '1,m,n,"[""Tea?""]","[""Yes""]","[""No""]",0,1,0\n'
    )
    of_tools = [
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Tea?"}]}],
            "chosen": chat("a")[:1],
            "rejected": "no",
        }
    ]
    for name, file, text, options in (
        ("chatbot-arena", "in.jsonl", _lines([{**arena, "winner": "model_b"}] * 2), {"format": "chatbot-arena"}),
        ("chatbot-arena-csv", "in.csv", kaggle, {"format": "chatbot-arena"}),
        (
            "oasst",
            "in.jsonl",
            _lines([{"message_tree_id": "t", "prompt": node("Tea?", "prompter", replies)}]),
            {"format": "oasst"},
        ),
        (
            "prism",
            "in.jsonl",
            _lines([{"conversation_id": "c", "user_id": "u", "conversation_history": turns}]),
            {"format": "prism"},
        ),
        ("le-wi-di", "in.json", json.dumps(items), {"format": "le-wi-di", "label_scale": BUILT_IN_SCALES["binary"]}),
        ("chats", "in.jsonl", _lines(of_tools), {"format": "trl"}),
    ):
        found[name] = Reader({file: text.encode()}, _import(file, **options), (file,))
    mapping = tests["MAPPING"].encode()
    with tempfile.TemporaryDirectory() as place:
        tests["workbook"](Path(place) / "book.xlsx")
        with zipfile.ZipFile(Path(place) / "v.zip", "w") as packed:
            packed.writestr("votes.csv", tests["as_text"]())
        containers = {
            "in.csv": tests["as_text"](";").encode("utf-16"),
            "in.xlsx": (Path(place) / "book.xlsx").read_bytes(),
            "in.zip": (Path(place) / "v.zip").read_bytes(),
        }
    for file, data in containers.items():
        run = _import(file, format="mapping", mapping="m.yaml")
        found[f"container-{file}"] = Reader({file: data, "m.yaml": mapping}, run, (file,))
    return found


ODD_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", " ", "NaN", "1.0", "é", "\ud800", "\x00", "\u200d",
    [], {}, [[]], [None], {"a": 1}, [1, 2, 3], "2024-05-31", "0001-01-01T00:00:00+01:00", [{"role": "user"}], CHAT,
    "x" * 5000, 2**53 + 1, -0.0, "null", "[{}]",
]  # fmt: skip
ODD_BYTES = [
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\n", b"\r", b"\r\n", b"\t", b"#",
    b"&a", b"*a", b"- ", b"null", b"NaN", b"Infinity", b"-1", b"1e400", b"9" * 400, b"9" * 5000, b"[" * 3000, b"{" * 3000,
    b"!!python/object:os.system", b"<<", b"? ", b"%", b"\\", b"\\ud800", b"yes", b"010", b"1:30", b" " * 100, b"\xf0\x9f\x98",
]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to three changes of the bytes, or of a value in the JSON."""
    for _ in range(draw.randint(1, 3)):
        changed = _json_mutated(data, draw) if draw.random() < 0.5 else None
        data = _bytes_mutated(data, draw) if changed is None else changed
    return data


def _json_mutated(data: bytes, draw: random.Random) -> bytes | None:
    try:
        text = data.decode()
        whole = text.lstrip().startswith("[")
        parts = [json.loads(text)] if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
    parts = copy.deepcopy(parts)
    if not parts or not all(isinstance(part, dict | list) and part for part in parts):
        return None
    place: Any = parts
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and (place is parts or draw.random() < 0.7):
            place = inner
            continue
        break
    kind = draw.random()
    if kind < 0.7:
        place[key] = draw.choice(ODD_VALUES)
    elif kind < 0.85 and place is not parts:
        del place[key]
    elif isinstance(place, dict):
        place[draw.choice(["", "extra", "id", "text", "votes", str(key) + " "])] = inner
    else:
        place.append(inner)
    made = [json.dumps(part) for part in parts]
    return (made[0] if whole else "\n".join(made) + "\n").encode()


def _bytes_mutated(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randint(0, len(data)) for _ in range(2))
    end = min(end, start + draw.choice([1, 1, 4, 40]))
    kind = draw.randrange(5)
    if kind == 0:
        return data[:start] + draw.choice(ODD_BYTES) + data[start:]
    if kind == 1:
        return data[:start] + draw.choice(ODD_BYTES) + data[end:]
    if kind == 2:
        return data[:start] + data[start:end] * 2 + data[end:]
    if kind == 3:
        return data[:start] + bytes(draw.randrange(256) for _ in range(end - start)) + data[end:]
    return data[:start] if draw.random() < 0.3 else data[:start] + data[end:]


@dataclass
class Outcome:
    """Counts of one reader, and descriptions of what went wrong."""

    counts: collections.Counter[str]
    faults: list[str]


def fuzz(name: str, reader: Reader, count: int, seed: int, folder: Path) -> Outcome:
    """Read `count` mutated inputs, half of them with bad rows skipped."""
    outcome = Outcome(collections.Counter(), [])
    for number in range(count):
        draw = random.Random(f"{name} {seed} {number}")
        files = dict(reader.files)
        target = draw.choice(reader.mutated)
        files[target] = mutated(files[target], draw)
        for path in folder.iterdir():
            path.unlink()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        skip = number % 2 == 1
        try:
            imported = reader.run(folder, skip)
        except PluralignError as refused:
            outcome.counts["refused"] += 1
            if len(str(refused)) > 2000:
                outcome.faults.append(f"{name} {number}: a message of {len(str(refused))} characters")
        except Exception:
            outcome.counts["tracebacks"] += 1
            outcome.faults.append(f"{name} {number} ({target}):\n{traceback.format_exc(limit=-6)}")
        else:
            outcome.counts["read"] += 1
            if imported is not None and (lost := _lost(reader, files, imported)):
                outcome.counts["silent drops"] += 1
                outcome.faults.append(f"{name} {number}: {lost}")
    return outcome


def _lost(reader: Reader, files: dict[str, bytes], imported: Imported) -> str:
    """What a successful import lost without saying so; empty if nothing."""
    written = pq.read_table(imported.out).num_rows
    if written != imported.judgments:
        return f"{written} rows written, {imported.judgments} reported"
    name, data = next(iter(files.items()))
    if name.endswith(".json"):
        tasks = len(json.loads(data.decode("utf-8-sig")))
        return "" if tasks == imported.tally.rows else f"{tasks} entries, {imported.tally.rows} read"
    if not reader.rows:
        return ""
    lines = sum(1 for line in data.split(b"\n") if line.strip())
    said = imported.judgments + sum(imported.rejected.values()) + sum(imported.tally.left_out.values())
    if lines != imported.tally.rows or said != lines:
        return f"{lines} lines, {imported.tally.rows} rows read, {said} judged, rejected or left out"
    return ""


def main() -> None:
    """Run the fuzzer and print a table."""
    every = readers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"default: all of {', '.join(every)}")
    parser.add_argument("--count", type=int, default=1000, help="inputs per reader")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults: list[str] = []
    print("| reader | inputs | read | refused | tracebacks | silent drops |\n|---|---|---|---|---|---|")
    for name in given.readers or every:
        with tempfile.TemporaryDirectory() as folder:
            outcome = fuzz(name, every[name], given.count, given.seed, Path(folder))
        shown = [outcome.counts[key] for key in ("read", "refused", "tracebacks", "silent drops")]
        print(f"| {name} | {given.count} | {' | '.join(map(str, shown))} |", flush=True)
        faults += outcome.faults
    for fault in faults[:20]:
        print(fault)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
