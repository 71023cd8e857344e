"""What all processors share: texts with nothing to read, broken texts, and folders of other families."""

import json

import pytest
from fid_tiny import make_backbone, make_reader, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, FiDT5Processor
from hf_xlir.models.processing_text import fault_of, is_blank


PROCESSORS = {"colbert_xlmr": ColBERTXLMRProcessor, "biencoder": BiEncoderProcessor, "fid_t5": FiDT5Processor}


class TestTexts:
    @pytest.mark.parametrize(
        "text", ["", " ", "\n\t", "\u200b", "\ufeff", "\xa0\u3000", "\u200e\u202a\u2060", "\x00", "\xad", "\u2028"]
    )
    def test_nothing_to_read(self, text):
        assert is_blank(text) and fault_of(text) == "is empty: leave it out."
        assert fault_of(text, may_be_blank=True) is None
        assert not is_blank(f"{text}x{text}") and fault_of(f"{text}x{text}") is None

    @pytest.mark.parametrize("text", ["a", ".", "0", "東", "ا", "\u0301", "🙂", "�", "＿"])
    def test_something_to_read(self, text):
        assert not is_blank(text) and fault_of(text) is None

    @given(st.text())
    def test_white_space_is_a_part_of_it(self, text):
        if not text.strip():
            assert is_blank(text)
        assert is_blank(text) or fault_of(text) is None  # any text that can be encoded

    @pytest.mark.parametrize("text, position", [("\ud800", 0), ("ab\udfff", 2), ("é \ud83d x", 2)])
    def test_half_a_surrogate_pair(self, text, position):
        for may_be_blank in (False, True):
            assert fault_of(text, may_be_blank).startswith(f"is not valid Unicode: character {position} is")


@pytest.fixture
def saved(tmp_path, make_colbert, make_biencoder, tiny_tokenizer):
    """A folder of each family, model and processor."""
    colbert, biencoder, reader = make_colbert(), make_biencoder(), make_reader(make_backbone())
    for model, processor in (
        (colbert, ColBERTXLMRProcessor.from_config(tiny_tokenizer, colbert.config)),
        (biencoder, BiEncoderProcessor.from_config(tiny_tokenizer, biencoder.config)),
        (reader, FiDT5Processor(make_tokenizer())),
    ):
        for part in (model, processor):
            part.save_pretrained(tmp_path / model.config.model_type)
    return tmp_path


class TestFamilies:
    def test_folders_of_processors(self, saved):
        for family, processor_class in PROCESSORS.items():
            for other in PROCESSORS:
                if other == family:
                    assert type(processor_class.from_pretrained(saved / other)) is processor_class
                    continue
                message = f"holds a `{PROCESSORS[other].__name__}`, expected a `{processor_class.__name__}`"
                with pytest.raises(ValueError, match=message):
                    processor_class.from_pretrained(saved / other)

    def test_folders_of_models_with_a_tokenizer(self, saved):
        """As a folder is whose model was saved with the tokenizer alone."""
        for family in PROCESSORS:
            (saved / family / "processor_config.json").unlink()
        for family, processor_class in PROCESSORS.items():
            for other in PROCESSORS:
                if other == family:
                    assert type(processor_class.from_pretrained(saved / other)) is processor_class
                    continue
                with pytest.raises(ValueError, match=f"of type .{other}., but"):
                    processor_class.from_pretrained(saved / other)

    def test_folders_of_bare_models(self, tmp_path, make_bare_encoder, tiny_tokenizer):
        for name, model, tokenizer in (
            ("xlmr", make_bare_encoder("XLMRobertaModel"), tiny_tokenizer),
            ("t5", make_backbone(), make_tokenizer()),
        ):
            for part in (model, tokenizer):
                part.save_pretrained(tmp_path / name)
        for processor_class in (ColBERTXLMRProcessor, BiEncoderProcessor):
            assert processor_class.from_pretrained(tmp_path / "xlmr").document_length > 100
            with pytest.raises(ValueError, match="holds a model of type `t5`"):
                processor_class.from_pretrained(tmp_path / "t5")
        assert FiDT5Processor.from_pretrained(tmp_path / "t5").n_context == 100
        with pytest.raises(ValueError, match="is of type 'xlm-roberta', but a Fusion-in-Decoder reader"):
            FiDT5Processor.from_pretrained(tmp_path / "xlmr")

    def test_a_subclass_takes_its_parent_s_folder(self, saved):
        class Own(BiEncoderProcessor):
            pass

        assert type(Own.from_pretrained(saved / "biencoder", query_length=9)) is Own
        with pytest.raises(ValueError, match="holds a `ColBERTXLMRProcessor`, expected a `Own`"):
            Own.from_pretrained(saved / "colbert_xlmr")

    def test_a_folder_of_a_processor_alone(self, saved, tmp_path):
        processor = ColBERTXLMRProcessor.from_pretrained(saved / "colbert_xlmr", query_length=9)
        processor.save_pretrained(tmp_path / "alone")
        assert "processor_class" in json.loads((tmp_path / "alone" / "processor_config.json").read_text())
        assert ColBERTXLMRProcessor.from_pretrained(tmp_path / "alone").query_length == 9
