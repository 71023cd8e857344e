"""DPR, FiD and BGE-M3; what is told apart, refused and written; and this package's models for other libraries."""

import json

import numpy as np
import pytest
import torch
from fid_tiny import make_backbone, make_inputs, make_tokenizer, write_released
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    T5ForConditionalGeneration,
)

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, FiDT5Processor
from hf_xlir.convert import convert_checkpoint, detect_format
from hf_xlir.models.auto import load_reader, load_retriever


QUERIES = ["Where does the Nile flow?", "Who", "The Nile flows north. " * 5]
DOCUMENTS = ["The Nile flows north, to the sea!", "Seoul, Korea", "to the sea! " * 9]


def close(found, expected):
    return all(
        one.shape == other.shape and np.abs(one - other).max() < 1e-5
        for one, other in zip(found, expected, strict=True)
    )


def save(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
    return folder


class TestDPR:
    @pytest.fixture(params=[0, 8])
    def encoders(self, request, encoder_sizes):
        config = DPRConfig(**encoder_sizes, projection_dim=request.param)
        torch.manual_seed(0)
        return [model_class(config).eval() for model_class in (DPRQuestionEncoder, DPRContextEncoder)]

    @torch.no_grad()
    def check(self, encoders, tokenizer, embed, folder):
        model, processor = load_retriever(folder)
        batch = tokenizer(QUERIES, padding=True, return_tensors="pt")
        expected = encoders[0](batch["input_ids"], batch["attention_mask"]).pooler_output
        assert close(embed(model, processor, QUERIES, "queries"), expected.numpy())
        titles = ["Nile", "Korea", "Finland"]
        batch = tokenizer(titles, DOCUMENTS, padding=True, return_tensors="pt")
        assert batch["token_type_ids"].any()
        # DPR was trained with segment 0 everywhere
        expected = encoders[1](batch["input_ids"], batch["attention_mask"]).pooler_output
        inputs = processor.process_documents(DOCUMENTS, titles=titles)
        assert (model(**inputs).embeddings - expected).abs().max() < 1e-5
        return processor

    def test_folders(self, encoders, tiny_bert_tokenizer, embed, tmp_path):
        for encoder, name in zip(encoders, "qc", strict=True):
            save(tmp_path / name, encoder, tiny_bert_tokenizer)
        for first, second, out in (("q", "c", "a"), ("c", "q", "b")):  # in either order
            conversion = convert_checkpoint(tmp_path / first, tmp_path / out, document_encoder=tmp_path / second)
            assert conversion.format == "dpr" and conversion.model.config.share_encoders is False
            processor = self.check(encoders, tiny_bert_tokenizer, embed, tmp_path / out)
            assert (processor.query_length, processor.document_length) == (256, 256)

    def test_a_checkpoint_of_its_repository(self, encoders, tiny_bert_tokenizer, embed, tmp_path):
        weights = {}
        for encoder, name, tower in zip(
            encoders, ("question", "ctx"), ("question_encoder", "ctx_encoder"), strict=True
        ):
            for key, value in getattr(encoder, tower).state_dict().items():
                weights[f"{name}_model.{key.removeprefix('bert_model.')}"] = value
        save(tmp_path / "bert", BertModel(encoders[0].config), tiny_bert_tokenizer)
        config = json.loads((tmp_path / "bert" / "config.json").read_text())
        (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
        settings = {"encoder_model_type": "hf_bert", "sequence_length": 77, "pretrained_model_cfg": "nowhere/there"}
        state = {"model_dict": weights, "optimizer_dict": {}, "offset": 3, "encoder_params": settings}
        torch.save(state, tmp_path / "dpr.cp")
        convert_checkpoint(tmp_path / "dpr.cp", tmp_path / "ours", tokenizer=str(tmp_path / "bert"))
        processor = self.check(encoders, tiny_bert_tokenizer, embed, tmp_path / "ours")
        assert (processor.query_length, processor.document_length) == (77, 77)

        for change, message in (
            ({"encoder_model_type": "fairseq_roberta"}, "encoder_model_type='fairseq_roberta'"),
            ({"special_tokens": ["[START]"]}, r"special tokens \['\[START\]'\]"),
            ({"pretrained_model_cfg": None}, "give `tokenizer`"),
        ):
            torch.save({**state, "encoder_params": {**settings, **change}}, tmp_path / "dpr.cp")
            given = {} if "pretrained_model_cfg" in change else {"tokenizer": str(tmp_path / "bert")}
            with pytest.raises(ValueError, match=message):
                convert_checkpoint(tmp_path / "dpr.cp", tmp_path / "more", **given)
        half = {name: value for name, value in weights.items() if name.startswith("ctx")}
        torch.save({**state, "model_dict": half}, tmp_path / "dpr.cp")
        with pytest.raises(ValueError, match="no `question_model`"):
            convert_checkpoint(tmp_path / "dpr.cp", tmp_path / "more", tokenizer=str(tmp_path / "bert"))
        torch.save({"model": {}}, tmp_path / "dpr.cp")
        with pytest.raises(ValueError, match=r"`model_dict` and `encoder_params`, got \['model'\]"):
            convert_checkpoint(tmp_path / "dpr.cp", tmp_path / "more")

    def test_one_encoder_is_not_enough(self, encoders, tiny_bert_tokenizer, tmp_path):
        save(tmp_path / "q", encoders[0], tiny_bert_tokenizer)
        with pytest.raises(ValueError, match="`document_encoder`"):
            convert_checkpoint(tmp_path / "q", tmp_path / "ours")
        with pytest.raises(ValueError, match="both have a question_encoder"):
            convert_checkpoint(tmp_path / "q", tmp_path / "ours", document_encoder=tmp_path / "q")


class TestFiD:
    @torch.no_grad()
    def test_a_reader(self, tmp_path):
        backbone, tokenizer = make_backbone(vocab_size=120), make_tokenizer()
        write_released(backbone, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 120}))
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        given = {"tokenizer": str(tmp_path / "tokenizer")}
        assert convert_checkpoint(tmp_path, tmp_path / "ours", **given).format == "fid"
        model, processor = load_reader(tmp_path / "ours")
        assert type(processor) is FiDT5Processor and processor.passage_eos is False
        inputs = make_inputs([[9]])
        flat = {name: value.flatten(1) for name, value in inputs.items()}
        labels = torch.tensor([[5, 6, 1]])
        assert (model(**inputs, labels=labels).logits - backbone(**flat, labels=labels).logits).abs().max() < 1e-5
        with pytest.raises(ValueError, match="has no tokenizer.*give `tokenizer`"):
            convert_checkpoint(tmp_path, tmp_path / "more")
        with pytest.raises(ValueError, match="reader.*query_length"):
            convert_checkpoint(tmp_path, tmp_path / "more", query_length=9, **given)

    @pytest.mark.parametrize("extract_cls", [False, True])
    @torch.no_grad()
    def test_a_retriever(self, make_bare_encoder, tiny_bert_tokenizer, embed, tmp_path, extract_cls):
        bert = make_bare_encoder("BertModel")
        torch.manual_seed(1)
        proj, norm = torch.nn.Linear(32, 8), torch.nn.LayerNorm(8)
        torch.nn.init.normal_(norm.weight)
        weights = {f"model.{name}": value for name, value in bert.state_dict().items()}
        for prefix, part in (("proj", proj), ("norm", norm)):
            weights |= {f"{prefix}.{name}": value for name, value in part.state_dict().items()}
        torch.save(weights, tmp_path / "pytorch_model.bin")
        settings = {"indexing_dimension": 8, "apply_question_mask": True, "apply_passage_mask": True}
        settings |= {"extract_cls": extract_cls, "question_maxlength": 12, "passage_maxlength": 16, "projection": True}
        config = {**bert.config.to_dict(), **settings, "architectures": ["Retriever"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        tiny_bert_tokenizer.save_pretrained(tmp_path / "tokenizer")
        given = {"tokenizer": str(tmp_path / "tokenizer")}
        conversion = convert_checkpoint(tmp_path, tmp_path / "ours", **given)
        assert conversion.format == "fid" and "title: {title} context: {text}" in conversion.notes[0]
        model, processor = load_retriever(tmp_path / "ours")
        for texts, kind, prompt, length in ((QUERIES, "queries", "question: ", 12), (DOCUMENTS, "documents", "", 16)):
            texts = [prompt + text for text in texts]
            batch = tiny_bert_tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
            states = norm(proj(bert(**batch).last_hidden_state))
            mask = batch["attention_mask"][..., None]
            expected = states[:, 0] if extract_cls else (states * mask).sum(1) / mask.sum(1)
            plain = [text.removeprefix(prompt) for text in texts]
            assert close(embed(model, processor, plain, kind), expected.numpy())
        (tmp_path / "config.json").write_text(json.dumps({**config, "apply_passage_mask": False}))
        with pytest.raises(ValueError, match="apply_passage_mask=False"):
            convert_checkpoint(tmp_path, tmp_path / "more", **given)


class TestBGEM3:
    @torch.no_grad()
    def test_embeddings(self, make_bare_encoder, tiny_tokenizer, embed, tmp_path):
        encoder = save(tmp_path / "m3", tiny_tokenizer, make_bare_encoder("XLMRobertaModel")) and make_bare_encoder(
            "XLMRobertaModel"
        )
        torch.manual_seed(2)
        head = torch.nn.Linear(32, 32)
        torch.save(head.state_dict(), tmp_path / "m3" / "colbert_linear.pt")
        (tmp_path / "m3" / "modules.json").write_text("[]")  # it is one of sentence-transformers, too
        lengths = {"query_length": 10, "document_length": 20}
        conversion = convert_checkpoint(tmp_path / "m3", tmp_path / "ours", **lengths)
        assert conversion.format == "bge-m3" and len(conversion.notes) == 2
        model, processor = load_retriever(tmp_path / "ours")
        for texts, kind, length in ((QUERIES, "queries", 10), (DOCUMENTS, "documents", 20)):
            expected = []
            for text in texts:
                ids = tiny_tokenizer(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]
                vectors = head(encoder(ids).last_hidden_state)[0, 1:]  # all but <s>
                expected.append((vectors / vectors.norm(dim=-1, keepdim=True)).numpy())
            assert close(embed(model, processor, texts, kind), expected)
        (tmp_path / "m3" / "colbert_linear.pt").unlink()
        with pytest.raises(ValueError, match="no `colbert_linear.pt`"):
            convert_checkpoint(tmp_path / "m3", tmp_path / "more", format="bge-m3")


class TestExport:
    """What the other libraries make of it is tested where they are installed."""

    @pytest.mark.parametrize("attends", [False, True])
    def test_there_and_back_by_pylate(self, make_colbert, tiny_tokenizer, embed, tmp_path, attends):
        fields = {"query_expansion": "mask", "attend_to_expansion": attends}
        model = make_colbert(**fields, projection_bias=True, skip_ids=[40])
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config)
        save(tmp_path / "ours", model, processor)
        assert convert_checkpoint(tmp_path / "ours", tmp_path / "pylate", to="pylate").format == "hf_xlir"
        assert detect_format(tmp_path / "pylate") == "pylate"
        convert_checkpoint(tmp_path / "pylate", tmp_path / "back")
        back = load_retriever(tmp_path / "back")
        assert not back[1].skip_punctuation and {40, *processor._punctuation_ids().tolist()} == set(back[1].skip_ids)
        assert (back[1].query_marker_id, back[1].document_marker_id) == (len(tiny_tokenizer), len(tiny_tokenizer) + 1)
        for texts, kind in ((QUERIES, "queries"), (DOCUMENTS, "documents")):
            assert close(embed(*back, texts, kind), embed(model, processor, texts, kind))
        # The tokens are there now: once more, nothing is added
        convert_checkpoint(tmp_path / "back", tmp_path / "again", to="pylate")
        found = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("pylate", "again")]
        assert len(found[0]) == len(found[1]) == len(tiny_tokenizer) + 2 and len(processor.tokenizer) == len(
            tiny_tokenizer
        )

    def test_what_pylate_is_told(self, make_colbert, tiny_tokenizer, tmp_path):
        fields = {"use_markers": False, "query_prompt": "a ", "document_prompt": "b ", "query_expansion": "none"}
        model = make_colbert(skip_punctuation=False, **fields)
        save(tmp_path / "ours", model, ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config))
        notes = convert_checkpoint(tmp_path / "ours", tmp_path / "pylate", to="pylate").notes
        assert len(notes) == 1 and "prompts" in notes[0]
        settings = json.loads((tmp_path / "pylate" / "config_sentence_transformers.json").read_text())
        assert settings == {
            "model_type": "ColBERT",
            "prompts": {"query": "a ", "document": "b "},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": "",
            "document_prefix": "",
            "query_length": 16,
            "document_length": 40,
            "attend_to_expansion_tokens": False,
            "skiplist_words": [],
            "do_query_expansion": False,
        }
        dense = json.loads((tmp_path / "pylate" / "1_Dense" / "config.json").read_text())
        assert dense["activation_function"] == "torch.nn.modules.linear.Identity" and dense["bias"] is False
        assert load_file(tmp_path / "pylate" / "1_Dense" / "model.safetensors").keys() == {"linear.weight"}

    @pytest.mark.parametrize("fields", [{"mask_id_zero": True}, {"query_skip_ids": [0]}])
    def test_what_pylate_does_not_have(self, make_colbert, tiny_tokenizer, tmp_path, fields):
        model = make_colbert(**fields)
        save(tmp_path / "ours", model, ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config))
        with pytest.raises(ValueError, match=f"{next(iter(fields))}=.*, which PyLate does not have"):
            convert_checkpoint(tmp_path / "ours", tmp_path / "pylate", to="pylate")
        assert not (tmp_path / "pylate").exists()

    @pytest.mark.parametrize(
        "fields",
        [
            {"pooling": "mean", "normalize": True},
            {"embedding_dim": 8, "query_prompt": "Who ", "document_prompt": "The "},
            {"embedding_dim": 8, "projection_norm": False, "projection_activation": "gelu"},
        ],
    )
    def test_there_and_back_by_sentence_transformers(self, make_biencoder, tiny_tokenizer, embed, tmp_path, fields):
        model = make_biencoder(**fields, query_length=14, document_length=14)
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter)
        processor = BiEncoderProcessor.from_config(tiny_tokenizer, model.config)
        save(tmp_path / "ours", model, processor)
        convert_checkpoint(tmp_path / "ours", tmp_path / "st", to="sentence-transformers")
        assert detect_format(tmp_path / "st") == "sentence-transformers"
        convert_checkpoint(tmp_path / "st", tmp_path / "back")
        back = load_retriever(tmp_path / "back")
        for texts, kind in ((QUERIES, "queries"), (DOCUMENTS, "documents")):
            assert close(embed(*back, texts, kind), embed(model, processor, texts, kind))

    def test_what_sentence_transformers_does_otherwise(self, make_biencoder, tiny_tokenizer, tmp_path):
        model = make_biencoder(share_encoders=False)
        save(tmp_path / "two", model, BiEncoderProcessor.from_config(tiny_tokenizer, model.config))
        notes = convert_checkpoint(tmp_path / "two", tmp_path / "st", to="sentence-transformers").notes
        assert sorted(path.name for path in (tmp_path / "st").iterdir()) == ["document", "query"]
        assert "`query` and `document`" in notes[-1]
        lengths = [
            json.loads((tmp_path / "st" / kind / "sentence_bert_config.json").read_text())["max_seq_length"]
            for kind in ("query", "document")
        ]
        assert lengths == [16, 40]
        model = make_biencoder()
        save(tmp_path / "one", model, BiEncoderProcessor.from_config(tiny_tokenizer, model.config))
        notes = convert_checkpoint(tmp_path / "one", tmp_path / "st1", to="sentence-transformers").notes
        assert "cut at 40" in notes[-1]
        for fields, message in (
            ({"pooling": "last4_mean"}, "last4_mean"),
            ({"project_tokens": True}, "project_tokens"),
        ):
            model = make_biencoder(**fields)
            folder = save(tmp_path / message, model, BiEncoderProcessor.from_config(tiny_tokenizer, model.config))
            with pytest.raises(ValueError, match=f"{message}.*, which sentence-transformers does not have"):
                convert_checkpoint(folder, tmp_path / "none", to="sentence-transformers")

    @torch.no_grad()
    def test_the_encoder_alone(self, make_colbert, make_biencoder, tiny_tokenizer, tmp_path):
        model = make_colbert()
        save(tmp_path / "a", model, ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config))
        (note,) = convert_checkpoint(tmp_path / "a", tmp_path / "encoder", to="transformers").notes
        assert "the projection `linear`, query_marker_id=" in note and "query_expansion='pad'" in note
        encoder = AutoModel.from_pretrained(tmp_path / "encoder").eval()
        ids = AutoTokenizer.from_pretrained(tmp_path / "encoder")(QUERIES[0], return_tensors="pt")["input_ids"]
        assert torch.equal(encoder(ids).last_hidden_state, model.encoder(ids).last_hidden_state)
        model = make_biencoder(share_encoders=False, embedding_dim=8)
        for weight in model.document_encoder.parameters():
            weight.mul_(1.1)
        save(tmp_path / "b", model, BiEncoderProcessor.from_config(tiny_tokenizer, model.config))
        (note,) = convert_checkpoint(tmp_path / "b", tmp_path / "encoders", to="transformers").notes
        assert "pooling='cls'" in note and "the projection `head`" in note
        for kind in ("query", "document"):
            encoder = AutoModel.from_pretrained(tmp_path / "encoders" / kind).eval()
            assert torch.equal(encoder(ids).last_hidden_state, model.tower(kind)[0](ids).last_hidden_state)

    @torch.no_grad()
    def test_a_reader_is_its_backbone(self, tmp_path):
        backbone, tokenizer = make_backbone(vocab_size=120), make_tokenizer()
        save(tmp_path / "t5", backbone, tokenizer)
        save(tmp_path / "ours", *load_reader(tmp_path / "t5"))
        (note,) = convert_checkpoint(tmp_path / "ours", tmp_path / "plain", to="transformers").notes
        assert "n_context=100" in note
        plain = AutoModel.from_pretrained(tmp_path / "plain")
        assert plain.config.model_type == "t5"
        inputs = {"input_ids": make_inputs([[9]])["input_ids"][:, 0], "labels": torch.tensor([[5, 1]])}
        found = T5ForConditionalGeneration.from_pretrained(tmp_path / "plain")(**inputs).logits
        assert torch.equal(found, backbone(**inputs).logits)
        with pytest.raises(ValueError, match="type 'fid_t5'.*got 'pylate'"):
            convert_checkpoint(tmp_path / "ours", tmp_path / "none", to="pylate")


class TestArguments:
    def test_formats(self, tmp_path):
        for number, (files, expected) in enumerate(
            (
                ({"artifact.metadata": "{}"}, "colbert"),
                ({"config.json": '{"architectures": ["HF_ColBERT"]}'}, "colbert"),
                ({"colbert_linear.pt": "", "modules.json": "[]"}, "bge-m3"),
                ({"modules.json": '[{"type": "pylate.models.Dense.Dense"}]'}, "pylate"),
                ({"modules.json": "[]", "config_sentence_transformers.json": '{"model_type": "ColBERT"}'}, "pylate"),
                ({"modules.json": "[]"}, "sentence-transformers"),
                ({"config.json": '{"model_type": "dpr"}'}, "dpr"),
                ({"config.json": '{"model_type": "t5", "architectures": ["FiDT5"]}'}, "fid"),
                ({"config.json": '{"model_type": "biencoder"}'}, "hf_xlir"),
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text)
            assert detect_format(folder) == expected
        for name, expected in (("a.dnn", "drdecr"), ("b.model", "drdecr"), ("c.cp", "dpr")):
            (tmp_path / name).write_text("")
            assert detect_format(tmp_path / name) == expected
        (tmp_path / "d.bin").write_text("")
        with pytest.raises(ValueError, match="d.bin` is unknown.*`format`"):
            detect_format(tmp_path / "d.bin")
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            detect_format(tmp_path / "nowhere")
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
        with pytest.raises(ValueError, match="model_type='bert'.*bare encoder"):
            detect_format(tmp_path / "bert")

    @pytest.mark.parametrize(
        "given, error, message",
        [
            ({"format": "st"}, ValueError, "`format`.*'st'"),
            ({"to": "onnx"}, ValueError, "`to`.*'onnx'"),
            ({"output_dir": "full"}, FileExistsError, "full` is there already"),
            ({"source": "no/where/there"}, FileNotFoundError, "no file or folder `no/where/there`"),
            ({"source": "no/where.dnn"}, FileNotFoundError, "no file or folder `no/where.dnn`"),
            ({}, ValueError, "'hf_xlir' already"),
            ({"to": "pylate", "tokenizer": "x"}, ValueError, "its own tokenizer"),
            ({"to": "pylate", "document_encoder": "x"}, ValueError, "`document_encoder` is for 'dpr'"),
            ({"source": "a.dnn", "format": "pylate"}, ValueError, "a.dnn` is a file, but 'pylate' is a folder"),
            ({"source": "full", "format": "drdecr"}, ValueError, "'drdecr' is a file.*x.dnn"),
        ],
    )
    def test_mistakes_come_before_work(self, tmp_path, monkeypatch, given, error, message):
        for name, file, text in (
            *(("ours", "config.json", '{"model_type": "biencoder"}'), ("full", "x.dnn", "")),
            ("full", "config.json", "{}"),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(text)
        (tmp_path / "a.dnn").write_text("")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(error, match=message):
            convert_checkpoint(**{"source": "ours", "output_dir": "new", **given})
        assert not (tmp_path / "new").exists()

    def test_a_folder_around_one_file_is_the_file(self, tmp_path):
        (tmp_path / "a").mkdir()
        torch.save({"x": 1}, tmp_path / "a" / "DrDecr.dnn")
        with pytest.raises(ValueError, match="DrDecr.dnn` must hold.*`model_state_dict`"):
            convert_checkpoint(tmp_path / "a", tmp_path / "new")
