import csv
import gzip
import io
import json
import pickle
import tracemalloc

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xlir.data import PASSAGE_FEATURES, load_passages
from hf_xlir.data.collection import PASSAGES as LAYOUT
from hf_xlir.data.reading import RowErrors
from hf_xlir.data.tables import read_table


# What loaders built on pandas or on raw quoting get wrong.
PASSAGES = [
    {"id": "1", "title": "NA", "text": "null"},
    {"id": "2", "title": 'The "Big" One', "text": '"Quoted as a whole"'},
    {"id": "3", "title": "", "text": 'A "stray quote, \r and \u2028 and a comma'},
    {"id": "nan", "title": "None", "text": "0012"},
    {"id": "5", "title": "中国", "text": 'ends with a quote"'},
]


def dpr_file(rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["id", "text", "title"])
    writer.writerows([row["id"], row["text"], row["title"]] for row in rows)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["psgs.tsv", "psgs.tsv.gz", "psgs"])
@pytest.mark.parametrize("streaming", [False, True])
def test_dpr_file(write, name, streaming):
    rows = [*PASSAGES, {"id": "6", "title": "a\ttab", "text": "another\ttab"}]
    content = dpr_file(rows).encode()
    passages = load_passages(write(name, gzip.compress(content) if "gz" in name else content), streaming=streaming)
    assert list(passages) == rows
    assert passages.features == PASSAGE_FEATURES
    assert isinstance(passages, datasets.IterableDataset if streaming else datasets.Dataset)


@pytest.mark.parametrize("header", [None, "pid\tpassage\ttitle", "title\tid\ttext"])
def test_colbert_collection(write, header):
    order = ["title", "id", "text"] if header and header.startswith("title") else ["id", "text", "title"]
    lines = ["\t".join(row[column] for column in order) for row in PASSAGES]
    path = write("collection.tsv", "\r\n".join([*([header] if header else []), *lines]))
    assert load_passages(path, quoting="raw").to_list() == PASSAGES
    if header is None:
        assert load_passages(path).to_list() == PASSAGES


def test_colbert_collection_without_titles(write):
    expected = [{"id": "0", "title": "", "text": '"a"'}, {"id": "1", "title": "", "text": '"b'}]
    assert load_passages(write("a.tsv", '0\t"a"\n1\t"b\n')).to_list() == expected
    assert load_passages(write("b.tsv", 'pid\tpassage\n0\t"a"\n1\t"b\n')).to_list() == expected


def test_quotes_around_a_tab_are_text_where_quotes_are(write):
    path = write("collection.tsv", '0\t"a\tb"\n1\tc\td\n')
    assert load_passages(path).to_list() == [
        {"id": "0", "title": 'b"', "text": '"a'},
        {"id": "1", "title": "d", "text": "c"},
    ]


def test_a_stray_quote_swallows_nothing(write):
    path = write("psgs.tsv", 'id\ttext\ttitle\n1\t"open\tT\n2\tb\tT"\n3\t"c\tT"\n4\t"d ""e"""\tT\n')
    assert load_passages(path).to_list() == [
        {"id": "1", "title": "T", "text": '"open'},
        {"id": "2", "title": 'T"', "text": "b"},
        {"id": "3", "title": 'T"', "text": '"c'},
        {"id": "4", "title": "T", "text": 'd "e"'},
    ]


@pytest.mark.parametrize("as_array", [False, True])
def test_json(write, as_array):
    rows = [
        {"id": 1, "title": None, "text": "null", "more": [1]},
        {"_id": "NA", "title": "T", "text": "a\ttab\n"},
        {"docid": "3", "contents": "A title\ta text\twith a tab"},
        {"id": "4", "contents": "only a text"},
        {"id": "5", "title": "Own", "contents": "A title\ta text"},
        {"id": "6", "text": "own", "contents": "A title\ta text"},
    ]
    content = json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows))
    assert load_passages(write("passages.jsonl", content)).to_list() == [
        {"id": "1", "title": "", "text": "null"},
        {"id": "NA", "title": "T", "text": "a\ttab\n"},
        {"id": "3", "title": "A title", "text": "a text\twith a tab"},
        {"id": "4", "title": "", "text": "only a text"},
        {"id": "5", "title": "Own", "text": "a text"},
        {"id": "6", "title": "", "text": "own"},
    ]


def test_parquet(tmp_path):
    table = pa.table({"text": ["a", "b", None], "id": [1, 2, 3], "title": ["NA", None, "T"], "x": [0, 0, 0]})
    path = tmp_path / "passages.parquet"
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="passages.parquet`, line 3: it has no text"):
        load_passages(path)
    expected = [{"id": "1", "title": "NA", "text": "a"}, {"id": "2", "title": "", "text": "b"}]
    assert load_passages(path, on_error="skip").to_list() == expected
    pq.write_table(table.rename_columns(["body", "id", "title", "x"]), path)
    with pytest.raises(ValueError, match=r"has the columns body, id, title, x. Expected .*, `text` \(or passage"):
        load_passages(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a complete parquet file"):
        load_passages(path)


def test_bad_rows_of_parquet(tmp_path):
    raw = pa.array([b"a", b"b \xff", b"NA", b"d"])
    text = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])  # as careless writers leave it
    path = tmp_path / "passages.parquet"
    pq.write_table(pa.table({"id": ["1", "2", "3", "1"], "text": text}), path)
    with pytest.raises(ValueError, match="passages.parquet`, line 2: byte 0xff is not UTF-8"):
        load_passages(path)
    passages = load_passages(path, on_error="skip")
    assert passages["text"][:] == ["a", "NA"]
    assert "line 4: the id `1` has occurred before" in passages.info.description


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"", "the line is blank"),
        (b"9\ta \xff b\tT", r"byte 5 of the line \(0xff\) is not UTF-8"),
        (b"9\ttoo few", "expected 3 columns as in the first line, got 2"),
        (b"9\ttoo\tmany\tcolumns", "expected 3 columns as in the first line, got 4"),
        (b"\ta\tT", "it has no id"),
        (b"9\t \tT", "it has no text"),
        (b"1\tagain\tT", "the id `1` has occurred before"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_named_or_skipped(write, row, reason, streaming):
    path = write("psgs.tsv", b"id\ttext\ttitle\n1\ta\tT\n" + row + b"\n2\tb\tT\n")
    with pytest.raises(ValueError, match=f"psgs.tsv`, line 3: {reason}"):
        list(load_passages(path, streaming=streaming))
    passages = load_passages(path, on_error="skip", streaming=streaming)
    assert [passage["text"] for passage in passages] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, "it has no id"),
        ({"id": "9"}, "it has no text"),
        ({"id": "9", "text": 7}, "the text is a int, not text"),
        ({"id": True, "text": "a"}, "the id is a bool, not text"),
        ({"id": "1", "text": "a"}, "the id `1` has occurred before"),
    ],
)
def test_bad_json_rows_are_named(write, row, reason):
    path = write("a.jsonl", json.dumps({"id": 1, "text": "a"}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=f"a.jsonl`, line 2: {reason}"):
        load_passages(path)


def test_what_is_not_a_collection_is_named(write, tmp_path):
    with pytest.raises(ValueError, match=r"line 1: expected `id` \(or _id.*optionally `title`.*got 1 column"):
        load_passages(write("a.txt", "just a text\n"))
    with pytest.raises(ValueError, match="empty.tsv` has no rows to load"):
        load_passages(write("empty.tsv", ""))
    with pytest.raises(ValueError, match="header.tsv` has no rows to load"):
        load_passages(write("header.tsv", "id\ttext\ttitle\n"))
    with pytest.raises(ValueError, match="the header id, body names no text. Expected `id`"):
        load_passages(write("other.tsv", "id\tbody\n1\ta\n"))
    with pytest.raises(FileNotFoundError, match="There is no file `absent.tsv`. Check the path"):
        load_passages("absent.tsv", streaming=True)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_passages(tmp_path)
    with pytest.raises(ValueError, match="`quoting` must be one of .auto., .csv., .raw., got .none."):
        load_passages("absent.tsv", quoting="none")
    with pytest.raises(ValueError, match="`on_error` must be one of .raise., .skip., got .warn."):
        load_passages("absent.tsv", on_error="warn")


def test_paths_with_odd_characters_are_not_patterns(write):
    path = write("psgs [1]*.tsv", "1\ta\tT\n")
    assert load_passages(path).num_rows == 1
    assert len(list(load_passages(path, streaming=True))) == 1


def test_streams_go_to_the_workers_of_a_data_loader(write):
    stream = load_passages(write("psgs.tsv", dpr_file(PASSAGES)), streaming=True)
    assert list(pickle.loads(pickle.dumps(stream))) == PASSAGES


def test_the_dataset_is_memory_mapped_and_cached(write, own_cache):
    path = write("psgs.tsv", dpr_file(PASSAGES))
    passages = load_passages(path)
    assert all(str(own_cache) in file["filename"] for file in passages.cache_files)
    assert load_passages(path).cache_files == passages.cache_files
    assert load_passages(path, quoting="raw").cache_files != passages.cache_files
    elsewhere = load_passages(path, cache_dir=str(own_cache / "elsewhere"))
    assert "elsewhere" in elsewhere.cache_files[0]["filename"]


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = str(tmp_path / "psgs.tsv")
    text = "word " * 50

    def peak(num_rows):
        with open(path, "w") as file:
            file.write("id\ttext\ttitle\n")
            file.writelines(f"{row}\t{text}\tTitle\n" for row in range(num_rows))
        tracemalloc.start()
        assert sum(1 for _ in read_table([path], [path], RowErrors(), LAYOUT, "auto")) == num_rows
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(50_000) < 1.2 * peak(25_000)


@pytest.mark.parametrize("streaming", [False, True])
def test_urls(write, served, streaming):
    write("psgs.tsv.gz", gzip.compress(dpr_file(PASSAGES).encode()))
    assert list(load_passages(f"{served}/psgs.tsv.gz", streaming=streaming)) == PASSAGES
    if not streaming:
        with pytest.raises(ConnectionError, match="absent.tsv` could not be downloaded"):
            load_passages(f"{served}/absent.tsv")


def test_the_published_samples(shared_data):
    folder = shared_data / "primeqa_samples"
    pyserini = load_passages(folder / "psgs_w100_pyserini_100.jsonl")
    assert len(pyserini) == 100
    assert pyserini[0]["id"] == "15094739"
    assert pyserini[0]["title"] == "John Sawbridge"
    assert pyserini[0]["text"].startswith("London in 1775 in succession to John Wilkes.")
    colbert = load_passages(folder / "xorqa.train_ir_001pct_at_0_pct_collection_fornum.tsv")
    assert len(colbert) == 6
    assert colbert[0]["title"] == "Kangxi Emperor"
    assert 'the longest period of "de facto" power' in colbert[0]["text"]
