import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_xlir.data import reduce_vocabulary, train_tokenizer


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
        "import json, sys; from hf_xlir.data import train_tokenizer;"
        "texts = json.load(sys.stdin); sys.stdout.write(train_tokenizer(texts * 20, 600).backend_tokenizer.to_str())"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(TEXTS), capture_output=True, text=True, check=True
    ).stdout
    assert output == trained.backend_tokenizer.to_str()


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


def test_a_reduced_tokenizer_splits_seen_texts_alike(trained, tmp_path):
    seen = SENTENCES["en"] + SENTENCES["ja"]
    small, kept_ids = reduce_vocabulary(trained, iter(seen))
    assert len(small) == len(kept_ids) < len(trained)
    assert kept_ids.dtype == torch.long
    assert kept_ids[:4].tolist() == [0, 1, 2, 3]
    assert small.mask_token_id == len(small) - 1
    for text in seen:
        assert small.tokenize(text) == trained.tokenize(text)
        assert kept_ids[small(text).input_ids].tolist() == trained(text).input_ids
    assert len(trained) == 1 + trained.mask_token_id  # unchanged
    small.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(seen).input_ids == small(seen).input_ids


def test_added_tokens_and_earlier_settings_do_not_matter():
    tokenizer = train_tokenizer(TEXTS * 20, vocab_size=600)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[Q]"]})
    tokenizer(TEXTS, truncation=True, max_length=5, padding="max_length")
    small, kept_ids = reduce_vocabulary(tokenizer, TEXTS[:1])
    assert small.convert_tokens_to_ids("[Q]") == len(small) - 1
    assert kept_ids[-1] == tokenizer.convert_tokens_to_ids("[Q]")
    assert small("[Q] What").input_ids == [0, len(small) - 1, *small("What").input_ids[1:]]
    assert small.tokenize(TEXTS[0]) == tokenizer.tokenize(TEXTS[0])


def test_reducing_names_what_is_wrong(trained):
    with pytest.raises(ValueError, match="no text"):
        reduce_vocabulary(trained, [])
    with pytest.raises(TypeError, match="one string"):
        reduce_vocabulary(trained, "a string")
    with pytest.raises(TypeError, match="no `tokenizers` backend"):
        reduce_vocabulary(object(), TEXTS)


def test_only_unigram_vocabularies_can_be_reduced():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="WordLevel"):
        reduce_vocabulary(words, ["a"])


def test_xlmr_reduced_to_questions_splits_them_alike(xlmr_tokenizer, shared_data, tmp_path):
    texts = []
    for path in sorted((shared_data / "xor_tydi" / "translations").iterdir()):
        texts += path.read_text(encoding="utf-8").split("\n")[:150]
    small, kept_ids = reduce_vocabulary(xlmr_tokenizer, texts)
    assert type(small) is type(xlmr_tokenizer)
    assert len(small) == len(kept_ids) < 20_000
    assert kept_ids[:4].tolist() == [0, 1, 2, 3]
    assert (small.mask_token_id, kept_ids[-1].item()) == (len(small) - 1, 250_001)
    old, new = xlmr_tokenizer(texts).input_ids, small(texts).input_ids
    assert [kept_ids[ids].tolist() for ids in new] == old
    assert small.batch_decode(new, skip_special_tokens=True) == xlmr_tokenizer.batch_decode(
        old, skip_special_tokens=True
    )
    # Words that were not seen, of characters that were, still are no unknown tokens.
    assert 3 not in small("quokkas vexed Zambian dwarfs").input_ids
    small.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(texts).input_ids == new


def test_xlmr_keeps_its_special_cases_when_reduced(xlmr_tokenizer):
    texts = ["Ａ ﬁne  ①day\u200b … 🙂 \U0001f9a9 ꙮ", "a<mask> b </s>"]
    small, kept_ids = reduce_vocabulary(xlmr_tokenizer, texts)
    for text in texts:
        assert kept_ids[small(text).input_ids].tolist() == xlmr_tokenizer(text).input_ids


def test_further_pieces_stay(trained):
    pieces = [piece for piece in trained.get_vocab() if piece.isascii() is False and len(piece) > 3]
    without, _ = reduce_vocabulary(trained, SENTENCES["en"])
    small, kept_ids = reduce_vocabulary(trained, SENTENCES["en"], tokens=pieces)
    assert pieces and not set(pieces) <= without.get_vocab().keys()
    assert set(pieces) <= small.get_vocab().keys()
    assert small.convert_ids_to_tokens(range(len(small))) == trained.convert_ids_to_tokens(kept_ids.tolist())
    assert [small.tokenize(text) for text in SENTENCES["en"]] == [trained.tokenize(text) for text in SENTENCES["en"]]
    with pytest.raises(ValueError, match="1 of `tokens` are not in the vocabulary, such as \\['nowhere'\\]"):
        reduce_vocabulary(trained, SENTENCES["en"], tokens=["nowhere"])
