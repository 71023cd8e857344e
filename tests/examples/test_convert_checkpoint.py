"""The script that converts checkpoints."""

import pytest

from hf_xlir import ColBERTXLMRProcessor
from hf_xlir.models.auto import load_retriever


def test_there_and_back(load_script, tiny_colbert, tiny_tokenizer, tmp_path, capsys):
    processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
    for part in (tiny_colbert, processor):
        part.save_pretrained(tmp_path / "ours")
    main = load_script("convert_checkpoint").main
    main(["--model_name_or_path", str(tmp_path / "ours"), "--to", "pylate", "--output_dir", str(tmp_path / "pylate")])
    out = capsys.readouterr().out
    count = f"{tiny_colbert.num_parameters():,}"
    assert f"ours is hf_xlir: ColBERTXLMRModel, {count} parameters." in out and "for pylate." in out
    main(
        [
            "--model_name_or_path",
            str(tmp_path / "pylate"),
            "--output_dir",
            str(tmp_path / "back"),
            "--document_length",
            "33",
        ]
    )
    out = capsys.readouterr().out
    assert "pylate is pylate" in out and "document_length: 33" in out and "query_expansion: 'mask'" in out
    assert load_retriever(tmp_path / "back")[1].document_length == 33


def test_notes_are_printed(load_script, tiny_biencoder, tiny_tokenizer, tmp_path, capsys):
    from hf_xlir import BiEncoderProcessor

    for part in (tiny_biencoder, BiEncoderProcessor.from_config(tiny_tokenizer, tiny_biencoder.config)):
        part.save_pretrained(tmp_path / "ours")
    given = [
        "--model_name_or_path",
        str(tmp_path / "ours"),
        "--to",
        "transformers",
        "--output_dir",
        str(tmp_path / "encoder"),
    ]
    load_script("convert_checkpoint").main(given)
    assert "pooling='cls'" in capsys.readouterr().out


def test_mistakes(load_script, tmp_path, capsys):
    for given in (["--to", "onnx"], ["--format", "keras"]):
        with pytest.raises(SystemExit):
            load_script("convert_checkpoint").main(
                ["--model_name_or_path", "a", "--output_dir", str(tmp_path), *given]
            )
        assert "invalid choice" in capsys.readouterr().err
