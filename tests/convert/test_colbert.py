"""ColBERT's folders and PrimeQA's files, made by hand, against their published code's definitions."""

import json
import string

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, PreTrainedTokenizerFast

from hf_xlir.convert import convert_checkpoint
from hf_xlir.convert.colbert import read_colbert, read_drdecr
from hf_xlir.models.auto import load_retriever


QUERIES = ["Where does the Nile flow?", "Who", "The Nile flows north. " * 5, "Who ? !"]  # skipped in documents alone
DOCUMENTS = ["The Nile flows north, to the sea!", "Seoul ? & Who", "to the sea! " * 9]
DIM = 8


def make_tokenizer(words, more=()):
    """A tokenizer of XLM-R's conventions whose pieces are whole words, single characters, and others given."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = sorted({f"▁{word}" for text in words for word in text.split()})
    pieces += sorted({character for text in words for character in text} | set(string.punctuation) | {"▁"} - {" "})
    vocabulary = [(piece, 0.0) for piece in special] + [(piece, -len(special) / len(piece)) for piece in pieces]
    vocabulary += [(piece, -50.0) for piece in more] + [("<mask>", 0.0)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    given = dict(zip(names, [*special, "<mask>"], strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **given)


@pytest.fixture(scope="module")
def tokenizer():
    """One with `$` and `.` as whole words, `&` as two pieces, and pieces enough for the published markers."""
    unused = [f"[unused{number}]" for number in range(9800)]
    tokenizer = make_tokenizer([*QUERIES, *DOCUMENTS[::2], "$ . ! ? a b"], unused)
    assert tokenizer.tokenize("&") == ["▁", "&"]
    return tokenizer


@pytest.fixture(scope="module")
def parts(tokenizer, make_bare_encoder):
    """A BERT, an XLM-R, and a projection."""
    encoders = {}
    for name, class_name in (("bert", "BertModel"), ("roberta", "XLMRobertaModel")):
        encoders[name] = make_bare_encoder(class_name)
        encoders[name].resize_token_embeddings(len(tokenizer))
    torch.manual_seed(5)
    return encoders, torch.randn(DIM, 32)


def placed(tokenizer, texts, placeholder, marker, length, padding):
    """Ids and mask as both libraries make them: a word in front, whose piece becomes the marker."""
    batch = tokenizer(
        [placeholder + text for text in texts],
        padding=padding,
        truncation=True,
        max_length=length,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    batch["input_ids"][:, 1] = marker
    return batch["input_ids"], batch["attention_mask"]


@torch.no_grad()
def vectors(encoder, linear, ids, mask, kept):
    """What counts of each text, normalised in float64."""
    states = encoder(ids, attention_mask=mask).last_hidden_state.double() @ linear.double().T
    states = states / states.pow(2).sum(-1, keepdim=True).sqrt()
    return [row[keep].numpy() for row, keep in zip(states, kept, strict=True)]


def skipped(tokenizer):
    """The published codes' skip list: the first piece of each mark."""
    return {tokenizer.encode(mark, add_special_tokens=False)[0] for mark in string.punctuation}


def close(found, expected):
    return all(
        one.shape == other.shape and np.abs(one - other).max() < 1e-5
        for one, other in zip(found, expected, strict=True)
    )


def write_colbert(folder, parts, tokenizer, metadata, prefix="bert", **more):
    encoders, linear = parts
    folder.mkdir()
    weights = {f"{prefix}.{name}": value for name, value in encoders[prefix].state_dict().items()}
    save_file({**weights, "linear.weight": linear, **more}, folder / "model.safetensors")
    config = {**encoders[prefix].config.to_dict(), "architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    if metadata is not None:
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


class TestFolders:
    @pytest.mark.parametrize(
        "metadata",
        [
            {"query_maxlen": 12, "doc_maxlen": 14, "dim": DIM, "mask_punctuation": True, "similarity": "cosine"},
            {
                **{"query_maxlen": 16, "doc_maxlen": 20, "dim": DIM, "mask_punctuation": False, "similarity": "l2"},
                **{"attend_to_mask_tokens": True, "query_token_id": "[unused7]", "doc_token_id": "[unused8]"},
            },
            {"config": {"query_maxlen": 12, "doc_maxlen": 14}, "meta": {"version": "colbert-v0.4"}},
        ],
        ids=["usual", "unusual", "nested"],
    )
    def test_embeddings(self, parts, tokenizer, embed, tmp_path, metadata):
        folder = write_colbert(tmp_path / "colbert", parts, tokenizer, metadata)
        conversion = convert_checkpoint(folder, tmp_path / "ours")
        metadata = metadata.get("config", metadata)
        assert conversion.format == "colbert" and len(conversion.notes) == (metadata.get("similarity") == "l2")
        model, processor = load_retriever(tmp_path / "ours")
        (encoders, linear), mask_id, pad_id = parts, tokenizer.mask_token_id, tokenizer.pad_token_id

        marker = tokenizer.convert_tokens_to_ids(metadata.get("query_token_id", "[unused0]"))
        ids, mask = placed(tokenizer, QUERIES, ". ", marker, metadata["query_maxlen"], "max_length")
        ids[ids == pad_id] = mask_id
        if metadata.get("attend_to_mask_tokens"):
            mask[ids == mask_id] = 1
        expected = vectors(encoders["bert"], linear, ids, mask, ids != pad_id)
        assert close(embed(model, processor, QUERIES, "queries"), expected)

        marker = tokenizer.convert_tokens_to_ids(metadata.get("doc_token_id", "[unused1]"))
        ids, mask = placed(tokenizer, DOCUMENTS, ". ", marker, metadata["doc_maxlen"], "longest")
        out = skipped(tokenizer) if metadata.get("mask_punctuation", True) else set()
        kept = (ids != pad_id) & ~torch.isin(ids, torch.tensor(sorted(out), dtype=torch.long))
        expected = vectors(encoders["bert"], linear, ids, mask, kept)
        assert close(embed(model, processor, DOCUMENTS, "documents"), expected)

    def test_without_metadata(self, parts, tokenizer, tmp_path):
        folder = write_colbert(tmp_path / "colbert", parts, tokenizer, None)
        model, processor, _ = read_colbert(folder)
        assert (processor.query_length, processor.document_length, processor.query_expansion) == (32, 220, "mask")
        assert processor.query_marker_id == tokenizer.convert_tokens_to_ids("[unused0]")
        assert read_colbert(folder, query_length=9)[1].query_length == 9

    def test_what_is_missing_or_has_no_counterpart(self, parts, tokenizer, tmp_path):
        folder = write_colbert(tmp_path / "a", parts, tokenizer, {"dim": 9})
        with pytest.raises(ValueError, match=f"says dim=9, but its projection gives {DIM}"):
            convert_checkpoint(folder, tmp_path / "ours")
        folder = write_colbert(tmp_path / "b", parts, tokenizer, {"interaction": "flipr"})
        with pytest.raises(ValueError, match="interaction='flipr'"):
            convert_checkpoint(folder, tmp_path / "ours")
        folder = write_colbert(tmp_path / "c", parts, tokenizer, {"query_token_id": "[unusual]"})
        with pytest.raises(ValueError, match=r"has the marker '\[unusual\]' \(query_token_id\)"):
            convert_checkpoint(folder, tmp_path / "ours")
        folder = write_colbert(tmp_path / "d", parts, tokenizer, {}, **{"score_scaler.weight": torch.ones(1, 1)})
        with pytest.raises(ValueError, match="score_scaler.weight"):
            convert_checkpoint(folder, tmp_path / "ours")
        encoders, linear = parts
        save_file(
            {f"bert.{name}": value for name, value in encoders["bert"].state_dict().items()},
            folder / "model.safetensors",
        )
        with pytest.raises(ValueError, match="no `linear.weight`"):
            convert_checkpoint(folder, tmp_path / "ours")
        assert not (tmp_path / "ours").exists()

    def test_a_tokenizer_that_splits_the_placeholder(self, parts, tokenizer, tmp_path):
        other = make_tokenizer(["a b c"], ["[unused0]", "[unused1]"])
        assert other.tokenize(". a b") == ["▁", ".", "▁a", "▁b"]
        folder = write_colbert(tmp_path / "colbert", parts, other, {})
        with pytest.raises(ValueError, match="makes 2 pieces of '. '"):
            convert_checkpoint(folder, tmp_path / "ours")


class TestFiles:
    def write(self, path, parts, prefix, names="{prefix}.{name}", **more):
        encoders, linear = parts
        weights = {
            names.format(prefix=prefix, name=name): value for name, value in encoders[prefix].state_dict().items()
        }
        linear_name = names.format(prefix="", name="linear.weight").replace("..", ".").removeprefix(".")
        states = {"np_rng_state": np.random.get_state(), "torch_rng_state": torch.get_rng_state(), "epoch": 1}
        torch.save({"model_state_dict": {**weights, linear_name: linear}, **states, **more}, path)
        return path

    @pytest.mark.parametrize("suffix", [".dnn", ".model"])
    def test_drdecr(self, parts, tokenizer, embed, tmp_path, suffix):
        encoders, linear = parts
        path = self.write(
            *(tmp_path / f"DrDecr{suffix}", parts, "roberta", "model.{prefix}.{name}"),
            config=encoders["roberta"].config.to_dict(),
            arguments={"query_maxlen": 12, "doc_maxlen": 14},
            model_type="xlm-roberta-base",
        )
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        conversion = convert_checkpoint(path, tmp_path / "ours", tokenizer=str(tmp_path / "tokenizer"))
        assert conversion.format == "drdecr"
        model, processor = load_retriever(tmp_path / "ours")
        # In one batch: their mask tests for id 0, so that padding counts
        ids, mask = placed(tokenizer, QUERIES, "$ ", 9748, 12, "max_length")
        expected = vectors(encoders["roberta"], linear, ids, mask, ids != 0)
        assert close(embed(model, processor, QUERIES, "queries"), expected)
        ids, mask = placed(tokenizer, DOCUMENTS, "$ ", 9749, 14, "longest")
        kept = (ids != 0) & ~torch.isin(ids, torch.tensor(sorted(skipped(tokenizer))))
        assert close(
            embed(model, processor, DOCUMENTS, "documents"), vectors(encoders["roberta"], linear, ids, mask, kept)
        )

    def test_the_published_skip_list(self, xlmr_tokenizer):
        from hf_xlir.convert.colbert import _skipped

        fields = _skipped(xlmr_tokenizer, {})
        assert fields["skip_punctuation"] is False and fields["skip_ids"] == sorted(skipped(xlmr_tokenizer))
        assert 6 in fields["skip_ids"] and 5 not in fields["skip_ids"]  # the bare boundary is; the full stop is not
        assert _skipped(xlmr_tokenizer, {"mask_punctuation": False}) == {"skip_punctuation": False}

    def test_where_every_mark_is_one_piece_the_processor_itself_skips_them(self):
        from hf_xlir.convert.colbert import _skipped

        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        whole = BertTokenizer(vocab={piece: i for i, piece in enumerate([*special, "nile", *string.punctuation])})
        assert all(len(ids) == 1 for ids in whole(list(string.punctuation), add_special_tokens=False)["input_ids"])
        assert _skipped(whole, {}) == {} and _skipped(whole, {"mask_punctuation": False}) != {}

    def test_colbert_of_the_first_version(self, parts, tokenizer, tmp_path):
        encoders, linear = parts
        encoders["bert"].save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        path = self.write(
            *(tmp_path / "colbert.dnn", parts, "bert", "module.{prefix}.{name}"),
            arguments={"query_maxlen": 12, "doc_maxlen": 14, "model": str(tmp_path / "base")},
        )
        model, processor, _ = read_drdecr(path)
        assert (processor.query_expansion, processor.query_length, processor.mask_id_zero) == ("mask", 12, False)
        assert torch.equal(model.linear.weight, linear)
        assert torch.equal(
            model.encoder.embeddings.word_embeddings.weight, encoders["bert"].embeddings.word_embeddings.weight
        )

    def test_mistakes(self, parts, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        path = self.write(tmp_path / "a.dnn", parts, "roberta")
        with pytest.raises(ValueError, match="give `tokenizer`"):
            read_drdecr(path)
        config = {**parts[0]["roberta"].config.to_dict(), "model_type": "roberta"}
        path = self.write(tmp_path / "b.dnn", parts, "roberta", config=config)
        with pytest.raises(ValueError, match="encoder of type 'roberta'"):
            read_drdecr(path, str(tmp_path / "tokenizer"))
        torch.save({"state": 1}, tmp_path / "c.dnn")
        with pytest.raises(ValueError, match=r"`model_state_dict`, got \['state'\]"):
            read_drdecr(tmp_path / "c.dnn")
        make_tokenizer(["a b"]).save_pretrained(tmp_path / "small")
        path = self.write(tmp_path / "d.dnn", parts, "roberta", config=parts[0]["roberta"].config.to_dict())
        with pytest.raises(ValueError, match=r"\(9748, 9749\)"):
            read_drdecr(path, str(tmp_path / "small"))
