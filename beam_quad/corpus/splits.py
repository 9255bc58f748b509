"""Plans the input: finds files, opens unknown ones, fixes one schema, cuts large files and joins small ones."""

import collections
import concurrent.futures
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.patterns import folded
from beam_quad.corpus import damage, folders, formats, jsonl, parquet, schemas
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.finding import find_files, naming
from beam_quad.corpus.joining import Joins, parts_of
from beam_quad.corpus.json_types import Shapes, shape_of
from beam_quad.corpus.kept import KeptSummaries
from beam_quad.corpus.summaries import ShardSummary
from beam_quad.errors import BAD_FILE_REMEDY, BadFileError, UsageError
from beam_quad.records import Split

_log = logging.getLogger(__name__)
SPLIT_BYTES = 256 << 20
# Maximum number of JSON Lines files opened to learn the shapes and the number of their rows.
SAMPLED_FILES = 1000
_QUERY_REMEDY = "repair the file, or leave it out"


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """The input at the time of planning.

    Attributes:
      splits: Units of work, sorted by shard and first row.
      schema: The carried columns as far as known; for JSON Lines from the first rows of each file.
      stored: The unified columns of the Parquet files.
      root: Folder that the names of shards are relative to; empty if the inputs have no common folder.
      num_rows: Rows of the corpus.
      num_rows_exact: Whether `num_rows` is counted, not partly estimated (JSON Lines).
      num_shards: Number of files.
      size_bytes: Stored size of the files.
      snapshot: Fingerprint of the names and versions of all shards.
      bad_files: The fault of each wholly unusable shard, by shard; splits of such shards are not read.
      passed_over: Number of files found but not read, by reason; see `find_files`.
    """

    splits: tuple[Split, ...]
    schema: pa.Schema
    stored: pa.Schema
    root: str
    num_rows: int
    num_rows_exact: bool
    num_shards: int
    size_bytes: int
    snapshot: str
    bad_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def patterns(self) -> list[str]:
        """Patterns that match exactly its files."""
        return folded(part.path for split in self.splits for part in parts_of(split))


def plan_input(
    patterns: Sequence[str],
    *,
    input_root: str | None = None,
    text_column: str = "text",
    prompt_column: str | None = None,
    messages_column: str | None = None,
    id_column: str | None = None,
    tokens_column: str | None = None,
    score_column: str | None = None,
    columns: Sequence[str] = (),
    split_bytes: int = SPLIT_BYTES,
    num_threads: int = 16,
    is_query: bool = False,
    reject_bad_files: bool = False,
    flag: str = "--input",
    version_of: Callable[[str, files.FileInfo], str] = lambda _, info: info.version,
    kept: KeptSummaries | None = None,
    joins: Joins | None = None,
) -> InputPlan:
    """Plans the input and refuses files that cannot form one corpus, before anything is written or started.

    Args:
      patterns: Globs, files and folders; each may be a list with commas; see `find_files`. Names under a glob or a folder
        that start with `_` or `.` are left out, as in Spark and Arrow.
      input_root: Folder that the names of shards are relative to; None: the longest common folder of all inputs.
      text_column: Column of the text.
      prompt_column: Column of the prompt that the text answers, or None.
      messages_column: Column of a conversation in place of text and prompt, or None.
      id_column: Column of the example id, or None.
      tokens_column: Column of the token count, or None.
      score_column: Column of a score, or None.
      columns: Patterns of the columns to carry or, with `!` before them, to leave out; see `schemas.Choice`.
      split_bytes: Larger files are cut into runs of row groups, or of rows, of about this size; small files are joined up
        to this size.
      num_threads: Number of files opened at once.
      is_query: Whether `.txt` files, with one text each, are inputs too.
      reject_bad_files: Whether a wholly unusable file is added to `bad_files` rather than refused.
      flag: The flag of the patterns, for errors.
      version_of: Finds the version of a shard's content; called from several threads.
      kept: Stored summaries of files; None: open all files.
      joins: Decides which small files to join; None: join none.

    Raises:
      UsageError: With one line that names the file and the remedy: no match, an unknown extension, an invalid header, footer
        or schema, a file without rows, a missing column, incompatible schemas, or two shards of one name.
    """
    text_flag = "--query_text_column" if is_query else "--text_column"
    read = Columns(
        text_column,
        id_column,
        tokens_column,
        text_flag,
        score_column,
        prompt_column,
        messages_column,
    )
    found = find_files(patterns, flag, is_query)
    infos = found.infos
    root = files.absolute(input_root) if input_root else _common_folder(infos)
    shards = _name_shards(infos, root)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        remedy = _QUERY_REMEDY if is_query else BAD_FILE_REMEDY
        bad_file_remedy = None if reject_bad_files else remedy
        opened = _sample(shards, split_bytes)
        known = _summarise_all(pool, opened, read, found.origins, bad_file_remedy, kept)
        summaries = _with_estimates(shards, known)
        mark = _exactly(summaries, kept)
        summaries = list(pool.map(mark, shards.values(), summaries))
        summaries = list(map(_with_folders, shards, summaries))
        versions = list(pool.map(version_of, shards, shards.values()))
    named = zip(shards, summaries, strict=True)
    problems = {shard: summary.problem for shard, summary in named if summary.problem}
    _tell_bad_files(problems, shards, flag)
    _check_any(summaries, [found.origins[info.path] for info in shards.values()])
    if all(s.is_known and s.schema is None and s.shapes is None for s in summaries):
        raise UsageError(
            f"{flag}: no file has a row with a column {read.content!r}; check its rows"
        )
    stored = schemas.unify(
        (shard, summary.schema)
        for shard, summary in zip(shards, summaries, strict=True)
        if summary.schema is not None
    )
    choice = schemas.Choice(tuple(columns), tuple(read.names))
    schema = _schema_of_all(stored, summaries, choice)
    splits: list[Split] = []
    for (shard, info), summary, version in zip(shards.items(), summaries, versions, strict=True):
        own = [*_cut(shard, info, version, summary, split_bytes)]
        splits += own if joins is None else joins.as_before(own)
    if joins is not None:
        numbers = collections.Counter(split.shard for split in splits)
        whole = [numbers[split.shard] == 1 and split.shard not in problems for split in splits]
        splits = joins.joined(splits, whole, split_bytes)
    return InputPlan(
        splits=tuple(splits),
        schema=schema,
        stored=stored,
        root=root,
        num_rows=sum(summary.num_rows for summary in summaries),
        num_rows_exact=all(summary.is_exact for summary in summaries),
        num_shards=len(shards),
        size_bytes=sum(info.size_bytes for info in infos),
        snapshot=seeding.digest(*zip(shards, versions, strict=True)),
        bad_files=problems,
        passed_over=found.passed_over,
    )


def _tell_bad_files(
    problems: Mapping[str, str], shards: Mapping[str, files.FileInfo], flag: str
) -> None:
    if not problems:
        return
    shard, problem = next(iter(problems.items()))
    first = files.printable(f"{shards[shard].path}: {problem}")
    if problems.keys() == shards.keys():
        raise UsageError(f"{flag}: no file can be used; the first is {first}")
    _log.warning(
        "%s: %s of %s files are left out; the first is %s",
        flag,
        f"{len(problems):,}",
        f"{len(shards):,}",
        first,
    )


def _sample(shards: Mapping[str, files.FileInfo], split_bytes: int) -> dict[str, files.FileInfo]:
    """Chooses the files to open: all Parquet files and, if there are very many JSON Lines files, a hash sample of them.

    Files that are to be cut are always opened. A row that does not fit the sample is found by the worker that reads it.
    """
    lines = [shard for shard, info in shards.items() if formats.is_jsonl(info.path)]
    if len(lines) <= SAMPLED_FILES:
        return dict(shards)
    # By hash of the name, so every launch opens the same files and finds their stored summaries.
    unopened = set(sorted(lines, key=seeding.digest)[SAMPLED_FILES:])
    return {
        shard: info
        for shard, info in shards.items()
        if shard not in unopened or info.size_bytes > split_bytes
    }


def _with_estimates(
    shards: Mapping[str, files.FileInfo], known: Mapping[str, ShardSummary]
) -> list[ShardSummary]:
    """Estimates the rows of unopened files from opened files with the same extension."""
    rows, sizes = collections.Counter[str](), collections.Counter[str]()
    for shard, summary in known.items():
        ending = _ending(shard)
        rows[ending] += summary.num_rows
        sizes[ending] += shards[shard].size_bytes
    every = rows.total() / max(1, sizes.total())
    summaries = []
    for shard, info in shards.items():
        if shard in known:
            summaries.append(known[shard])
            continue
        ending = _ending(shard)
        density = rows[ending] / sizes[ending] if sizes[ending] else every
        num_rows = round(density * info.size_bytes)
        summaries.append(ShardSummary(None, None, num_rows, is_exact=False, is_known=False))
    return summaries


def _ending(shard: str) -> str:
    return shard.rpartition(".")[2].lower()


def _exactly(
    summaries: Iterable[ShardSummary], kept: KeptSummaries | None
) -> Callable[[files.FileInfo, ShardSummary], ShardSummary]:
    """Returns a function that marks, in a shard's schema, whole numbers exact in doubles, if they may meet doubles."""
    declared = [summary.schema for summary in summaries if summary.schema is not None]
    fields = [field for schema in dict.fromkeys(declared) for field in schema]
    # Any JSON Lines row may have a fraction.
    has_lines = any(summary.schema is None and not summary.problem for summary in summaries)
    doubles = {field.name for field in fields if pa.types.is_floating(field.type)}

    def mark(info: files.FileInfo, summary: ShardSummary) -> ShardSummary:
        if summary.schema is None:
            return summary
        whole = {field.name for field in summary.schema if field.type == pa.int64()}
        wanted = whole if has_lines else whole & doubles
        exact: Collection[str] = ()
        if not formats.has_statistics(info.path):
            wanted = set()
        if wanted and kept is not None:
            exact = kept.exact_columns(info, wanted, parquet.exact_columns)
        elif wanted:
            exact = parquet.exact_columns(info.path, wanted)
        marked = [schemas.exact_field(f) if f.name in exact else f for f in summary.schema]
        return dataclasses.replace(summary, schema=pa.schema(marked))

    return mark


def _with_folders(shard: str, summary: ShardSummary) -> ShardSummary:
    """Adds the columns named by a shard's folders, unless the file has columns of those names."""
    named = folders.columns_of(shard)
    if summary.schema is not None:
        fields = [pa.field(n, pa.string()) for n in named if n not in summary.schema.names]
        return dataclasses.replace(summary, schema=pa.schema([*summary.schema, *fields]))
    if summary.shapes is not None:
        known = summary.shapes.columns
        added = Shapes({n: shape_of(value) for n, value in named.items() if n not in known})
        return dataclasses.replace(summary, shapes=summary.shapes + added)
    return summary


def _check_any(summaries: Sequence[ShardSummary], origins: Sequence[str]) -> None:
    """Refuses a column whose values in the first rows do not fit its role, if no file has fitting ones."""
    if any(s.schema is not None or (s.shapes is not None and not s.doubt) for s in summaries):
        return
    for summary, origin in zip(summaries, origins, strict=True):
        if summary.doubt:
            raise UsageError(f"{origin}: {summary.doubt}")


def _common_folder(infos: Iterable[files.FileInfo]) -> str:
    common = []
    for parts in zip(*(info.path.split("/")[:-1] for info in infos), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    has_scheme = bool(common) and common[0].endswith(":")
    common = folders.above(common)
    # The parts of a URL are its scheme, an empty string and the bucket; URLs that share fewer have no common root.
    return "" if has_scheme and len(common) < 3 else "/".join(common)


def _name_shards(infos: Iterable[files.FileInfo], root: str) -> dict[str, files.FileInfo]:
    shards: dict[str, files.FileInfo] = {}
    for info in infos:
        if not info.path.startswith(f"{root}/") and root:
            raise UsageError(
                f"{info.path} lies outside --input_root {root}; pass a root that holds both"
            )
        # Without a root a shard's name is the path without its scheme: `bucket/folder/file`.
        place = info.path[len(root) :].partition("://")[2] or info.path[len(root) :]
        # The name becomes part of ids, which must be valid UTF-8.
        shard = files.printable(place)
        other = shards.setdefault(shard.lstrip("/"), info)
        if other is not info:
            raise UsageError(
                f"{other.path} and {info.path} would both be shard {shard!r}; rename one"
            )
    return dict(sorted(shards.items()))


def _summarise_all(
    pool: concurrent.futures.Executor,
    shards: dict[str, files.FileInfo],
    columns: Columns,
    origins: Mapping[str, str],
    bad_file_remedy: str | None,
    kept: KeptSummaries | None,
) -> dict[str, ShardSummary]:
    def summarise(info: files.FileInfo) -> ShardSummary:
        with naming(origins[info.path]):
            return _summarise(info, columns, bad_file_remedy)

    def known(info: files.FileInfo) -> ShardSummary:
        return summarise(info) if kept is None else kept.summary(info, summarise)

    try:
        return dict(zip(shards, pool.map(known, shards.values()), strict=True))
    except BaseException:
        # Otherwise the error would wait until thousands of other files are opened.
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _summarise(info: files.FileInfo, columns: Columns, bad_file_remedy: str | None) -> ShardSummary:
    """Summarises a shard; a bad one is refused if there is a remedy to suggest, else summarised as bad."""
    try:
        return formats.format_of(info.path).summarise(info, columns)
    except BadFileError as error:
        if bad_file_remedy is None:
            return _unusable(error.detail)
        raise UsageError(f"{error.path}: {error.detail}; {bad_file_remedy}") from error
    except OSError as error:
        # Errors of networks have other types, or no file to name, so they are re-raised.
        if not (files.is_local(info.path) or isinstance(error, FileNotFoundError)):
            raise
        raise UsageError(f"{info.path}: cannot be read: {damage.one_line(error)}") from error
    except UsageError as error:
        if bad_file_remedy is None:
            return _unusable(str(error).removeprefix(info.path).lstrip(": "))
        raise


def _unusable(problem: str) -> ShardSummary:
    return ShardSummary(None, None, 0, is_exact=True, problem=files.printable(problem))


def _schema_of_all(
    stored: pa.Schema, summaries: Iterable[ShardSummary], choice: schemas.Choice
) -> pa.Schema:
    shapes, names = Shapes(), dict[str, None]()
    for summary in summaries:
        if summary.schema is not None:
            names |= dict.fromkeys(summary.schema.names)
        if summary.shapes is not None:
            names |= dict.fromkeys(summary.shapes.columns)
            shapes += summary.shapes
    if names:
        choice.check(list(names))
    known = pa.schema([(name, pa.null()) for name in names])
    return schemas.carried(stored, shapes, choice, known)


def _cut(
    shard: str, info: files.FileInfo, version: str, summary: ShardSummary, split_bytes: int
) -> Iterator[Split]:
    if formats.is_jsonl(info.path):
        yield from _cut_lines(shard, info, version, summary, split_bytes)
        return
    if not summary.groups or info.size_bytes <= split_bytes:
        yield Split(
            shard,
            0,
            len(summary.groups),
            0,
            summary.num_rows,
            info.path,
            info.size_bytes,
            version,
            info.version,
        )
        return
    first_group = first_row = num_rows = size_bytes = 0
    for i, group in enumerate(summary.groups):
        if num_rows and size_bytes + group.size_bytes > split_bytes:
            yield Split(
                shard, first_group, i - first_group, first_row, num_rows,
                info.path, size_bytes, version, info.version,
            )  # fmt: skip
            first_group, first_row, num_rows, size_bytes = i, first_row + num_rows, 0, 0
        num_rows += group.num_rows
        size_bytes += group.size_bytes
    yield Split(
        shard, first_group, len(summary.groups) - first_group, first_row, num_rows,
        info.path, size_bytes, version, info.version,
    )  # fmt: skip


def _cut_lines(
    shard: str, info: files.FileInfo, version: str, summary: ShardSummary, split_bytes: int
) -> Iterator[Split]:
    """Cuts JSON Lines by an estimated number of rows; the last part has all remaining rows, possibly none."""
    num_parts = min(jsonl.MOST_CUTS, max(1, -(-info.size_bytes // split_bytes)))
    num_rows = -(-summary.num_rows // num_parts)
    num_rows = max(1, -(-num_rows // jsonl.CUT_ROWS)) * jsonl.CUT_ROWS
    first_rows = range(0, max(1, summary.num_rows), num_rows) if num_parts > 1 else range(1)
    for number, first_row in enumerate(first_rows, 1):
        is_last = number == len(first_rows)
        size_bytes = info.size_bytes // len(first_rows)
        size_bytes += info.size_bytes % len(first_rows) * is_last
        yield Split(
            shard, first_row, 0 if is_last else num_rows, first_row, -1,
            info.path, size_bytes, version, info.version,
        )  # fmt: skip
