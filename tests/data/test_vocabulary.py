import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_xlir.data import reduce_vocabulary
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
    # Unseen words of seen characters have no unknown tokens
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
