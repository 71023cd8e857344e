import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from support import vocabulary
from support.vocabulary import train_tokenizer


SENTENCES = {
    "en": ["What is the capital of France?", "Who invented the telephone in 1876?", "The capital is on the river."],
    "ar": ["ما هي عاصمة فرنسا؟", "من اخترع الهاتف؟", "ما هي عاصمة اليابان؟"],
    "bn": ["ফ্রান্সের রাজধানী কী?", "টেলিফোন কে আবিষ্কার করেন?", "জাপানের রাজধানী কী?"],
    "fi": ["Mikä on Ranskan pääkaupunki?", "Kuka keksi puhelimen?", "Mikä on Japanin pääkaupunki?"],
    "ja": ["フランスの首都はどこですか。", "電話を発明したのは誰ですか。", "日本の首都はどこですか。"],
    "ko": ["프랑스의 수도는 어디입니까?", "누가 전화를 발명했습니까?", "일본의 수도는 어디입니까?"],
    "ru": ["Какая столица Франции?", "Кто изобрёл телефон?", "Какая столица Японии?"],
    "te": ["ఫ్రాన్స్ రాజధాని ఏది?", "టెలిఫోన్ ఎవరు కనుగొన్నారు?", "జపాన్ రాజధాని ఏది?"],
}
TEXTS = [text for texts in SENTENCES.values() for text in texts]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS * 20, vocab_size=600)


def test_special_tokens_of_a_trained_tokenizer_are_where_xlmr_has_them(trained):
    assert trained.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert trained.mask_token_id == len(trained) - 1
    assert (trained.bos_token_id, trained.cls_token_id) == (0, 0)
    assert (trained.eos_token_id, trained.sep_token_id) == (2, 2)
    assert len(trained) <= 600


def test_a_trained_tokenizer_wraps_texts_as_xlmr_does(trained):
    first, second = (trained(text, add_special_tokens=False).input_ids for text in TEXTS[:2])
    assert trained(TEXTS[0]).input_ids == [0, *first, 2]
    assert trained(TEXTS[0], TEXTS[1]).input_ids == [0, *first, 2, 2, *second, 2]
    batch = trained(TEXTS[:2], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert (batch.input_ids[batch.attention_mask == 0] == 1).all()


def test_a_trained_tokenizer_knows_its_texts_and_gives_them_back(trained):
    for text in TEXTS:
        ids = trained(text).input_ids
        assert 3 not in ids
        assert trained.decode(ids, skip_special_tokens=True) == text
    assert trained("猫").input_ids[-2] == 3


def test_text_is_normalised(trained):
    assert trained("Who invented  the\u00a0telephone in １８７６？").input_ids == trained(SENTENCES["en"][1]).input_ids


def test_japanese_pieces_end_where_the_script_changes(trained):
    assert trained.tokenize("日本の首都はどこですか。") == ["▁", "日本", "の", "首都", "はどこですか", "。"]


def test_numbers_and_punctuation_are_pieces_of_their_own():
    tokenizer = train_tokenizer(["In 1998 it was 1998年, (1998)."] * 50, vocab_size=100)
    assert [piece for piece in tokenizer.tokenize("In 1998 it was 1998年, (1998).") if "1998" in piece] == ["1998"] * 3


def test_training_repeats_bit_for_bit_in_other_processes(trained):
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from support.vocabulary import train_tokenizer;"
        "texts = json.load(sys.stdin); sys.stdout.write(train_tokenizer(texts * 20, 600).backend_tokenizer.to_str())"
    )
    command = [sys.executable, "-c", script, Path(vocabulary.__file__).parents[1]]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
    assert done.stdout == trained.backend_tokenizer.to_str()


def test_a_trained_tokenizer_reloads_as_it_was(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
    assert loaded.special_tokens_map == trained.special_tokens_map
    assert loaded("電話　Ａ").input_ids == trained("電話　Ａ").input_ids


def test_too_many_characters_for_the_vocabulary_leave_the_rarest_out():
    common, rare = "abcdefgh", "".join(map(chr, range(0x4E00, 0x4E40)))
    tokenizer = train_tokenizer([common] * 5 + [rare], vocab_size=30)
    assert len(tokenizer) <= 30
    assert tokenizer.unk_token_id not in tokenizer(common).input_ids
    assert tokenizer.unk_token_id in tokenizer(rare).input_ids


@pytest.mark.parametrize(
    ("texts", "vocab_size", "error", "message"),
    [
        ("one string", 100, TypeError, "one string"),
        ([], 100, ValueError, "no text"),
        (["  ", "\n"], 100, ValueError, "no text"),
        (["a text"], 8, ValueError, "`vocab_size` is 8"),
    ],
)
def test_training_names_what_is_wrong(texts, vocab_size, error, message):
    with pytest.raises(error, match=message):
        train_tokenizer(texts, vocab_size)
