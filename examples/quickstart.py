"""
The whole job in about four minutes on two cores, offline, with small models trained from scratch:

1. An English ColBERT, the teacher, learns to find the passages that answer English questions.
2. A student learns to find the same English passages for questions in seven other languages: first from translated
   sentences, token by token, then from the teacher's relevance scores (DR.DECR, https://arxiv.org/abs/2112.08185).
3. A dual encoder, with one vector per text, learns from the other passages of its batch, then from hard negatives
   that it finds itself (https://arxiv.org/abs/2004.04906).
4. A Fusion-in-Decoder reader learns to answer from sentences of the passage that the student finds
   (https://arxiv.org/abs/2007.01282).
5. Student, index and reader are saved as one system, loaded, and asked a question in Korean.

The data are the built-in mini world: English passages, and questions in eight languages. Test questions ask for facts
that no training question asks for, in any language.
"""

import copy
import json
import os
import time
from functools import partial
from pathlib import Path


# Before torch is imported: small models gain little from many threads, and a waiting thread should free its core
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import datasets
import numpy as np
from transformers import pipeline, set_seed
from transformers.utils import logging

from hf_xlir import (
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
    QuestionAnsweringPipeline,
)
from hf_xlir.data import load_mini_world, reduce_vocabulary
from hf_xlir.evaluation import exact_match, rank_passages
from hf_xlir.index import DenseIndex, LateInteractionIndex, embed_passages
from hf_xlir.training import ReaderTrainer, ReaderTrainingArguments, mine_hard_negatives
from support import real_data, steps
from support.answer_substitution import split_sentences, substitute_answers
from support.mimetic_init import mimetic_init_
from support.quickstart_arguments import parse_arguments
from support.vocabulary import train_tokenizer


NUM_TEST_QUESTIONS = 1000  # of 1,952: measuring takes time, too
NUM_STEPS = {"teacher": 220, "sentences": 640, "scores": 190, "nce": 60, "hard": 60, "reader": (520, 190)}


def main():
    """Run all steps and write the results."""
    args = parse_arguments(__doc__)
    started = time.perf_counter()
    set_seed(args.seed)
    print(__doc__)
    results = {"arguments": vars(args)}

    with steps.progress("1. Reading the data"):
        data = load_mini(args.languages) if args.data_dir is None else real_data.load(args)
    print(
        f"   {len(data.passages)} English passages; {len(data.train)} questions to learn from and {len(data.test)} to "
        f"test with, in {', '.join(sorted(set(data.test['lang'])))}; {len(data.parallel)} translated sentences"
    )

    distill = distill_colbert if args.teacher is None else real_data.distill_sentence_encoder
    retriever, embed, rankings, results["retrieval"] = distill(args, data)
    steps.print_table("Test questions with a right passage among the first 1 / 5 / 20, %", results["retrieval"])

    results["dual_encoder"] = train_dual_encoder(args, data, retriever)
    steps.print_table("The same among the first 1 / 5 / 10 / 20 / 100, %, all languages", results["dual_encoder"])

    reader = train_reader(args, data, retriever)
    with steps.progress("4. Answering the test questions from the best passage of each"):
        sentences = all_sentences(data.passages)
        embeddings = embed(sentences)
        chosen = steps.choose_sentences(retriever, data.test, rankings, sentences, embeddings, args.num_sentences)
        results["reader"], predictions = evaluate_reader(reader, data, rankings, chosen)
    steps.print_table("Exact match of the answers, %", results["reader"])

    with steps.progress("5. Saving the system, loading it, and asking it"):
        index = (LateInteractionIndex if args.teacher is None else DenseIndex).build(embeddings)
        ask = QuestionAnsweringPipeline(*retriever, index, sentences, reader=reader[0], reader_processor=reader[1])
        folder = str(Path(args.output_dir, "system"))
        ask.save_pretrained(folder)
        ask = pipeline("xlir-question-answering", model=folder)
        question = args.question or default_question(data)
        results["answer"] = {"question": question, **ask(question, explain=args.teacher is None)}
    show(results["answer"])

    results["seconds"] = round(time.perf_counter() - started, 1)
    for name, content in {"predictions": predictions, "results": results}.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        Path(args.output_dir, f"{name}.json").write_text(text, encoding="utf-8")
    print(f"\n{results['seconds']:.0f} seconds. Models, index and tables are in {args.output_dir}.")


# 1. Data


def load_mini(languages):
    """The built-in world."""
    world = load_mini_world(languages)
    test = world.questions["test"].shuffle(seed=0)
    test = test.select(range(min(NUM_TEST_QUESTIONS, len(test))))
    return steps.Data(world.passages, world.questions["train"], test, world.parallel.to_list())


def training_rows(data, is_wanted=lambda lang: True):
    """The training questions in the wanted languages, each with its passage and the same question in English."""
    passages = {passage["id"]: passage for passage in data.passages}
    english = {row["fact_id"]: row["question"] for row in data.train if row["lang"] == "en"}
    return [
        {
            "query": row["question"],
            "teacher_query": english[row["fact_id"]],
            "positive": passages[row["passage_ids"][0]],
        }
        for row in data.train
        if is_wanted(row["lang"]) and row["fact_id"] in english
    ]


# 2. Cross-lingual retrieval


def distill_colbert(args, data):
    """Train the English teacher, then its student on translated sentences, then on the teacher's scores."""
    from_scratch = args.backbone is None
    if from_scratch:
        tokenizer = train_tokenizer(steps.all_texts(data), 16_000)  # most names are one piece, which is easy to align
        lengths = {"query_length": 64, "document_length": args.document_length, "query_expansion": "none"}
        encoder = steps.small_encoder(tokenizer, 128, layers=2)
        teacher = ColBERTXLMRModel(ColBERTXLMRConfig(encoder_config=encoder, embedding_dim=64, **lengths))
    else:
        tokenizer, teacher = real_data.load_colbert(args)
    processor = ColBERTXLMRProcessor.from_config(tokenizer, teacher.config)

    rows = training_rows(data, lambda lang: lang == "en")
    with steps.progress(f"2. Training the English teacher on {len(rows)} questions"):
        settings = {"steps": NUM_STEPS["teacher"], "batch_size": 32}
        steps.train_retriever(args, teacher, processor, rows, "in_batch_nce", **settings)
        student = ColBERTXLMRModel(teacher.config)
        student.load_state_dict(teacher.state_dict())
        results = {"student before": steps.recall(student, processor, data.test, data.passages)[0]}

    # From scratch the layers are English and stay: other languages only need word vectors that fit them
    # (https://arxiv.org/abs/1910.11856), and documents need no second look. A backbone is trained whole.
    student.requires_grad_(not from_scratch)
    student.get_input_embeddings().requires_grad_(True)
    rows = [
        {"query": pair["source"], "teacher_query": pair["target"], "positive": pair["target"]}
        for pair in data.parallel
    ]
    with steps.progress(f"2. Training the student on {len(rows)} translated sentences"):
        settings = {"steps": NUM_STEPS["sentences"], "batch_size": 64, "teacher": teacher}
        settings |= {"learning_rate_factor": 4, "query_weight": 1.0} if from_scratch else {"query_weight": 0.5}
        steps.train_retriever(args, student, processor, rows, "token_distillation", **settings)
        student.requires_grad_(True)
        results["after translated sentences"] = steps.recall(student, processor, data.test, data.passages)[0]

    rows = training_rows(data, lambda lang: lang != "en")
    with steps.progress(f"2. Training the student on the teacher's scores for {len(rows)} questions"):
        settings = {"steps": NUM_STEPS["scores"], "batch_size": 32, "teacher": teacher, "distill_in_batch": True}
        steps.train_retriever(args, student, processor, rows, "score_distillation", **settings)
        results["after relevance scores"], rankings = steps.recall(student, processor, data.test, data.passages)

    embed = partial(embed_passages, student, processor, progress=False)
    return (student, processor), embed, rankings, results


# 3. The dual encoder


def train_dual_encoder(args, data, retriever):
    """Train a dual encoder, from the student's encoder, on in-batch negatives, then on hard negatives."""
    folder = Path(args.output_dir, "dual_encoder")
    student, student_processor = retriever
    student.encoder.save_pretrained(folder)
    model = BiEncoderModel.from_pretrained(folder, pooling="mean", document_length=args.document_length)
    processor = BiEncoderProcessor.from_config(student_processor.tokenizer, model.config)

    def measure(model):
        return steps.recall(model, processor, data.test, data.passages, (1, 5, 10, 20, 100), by_language=False)[0]

    rows = training_rows(data)
    with steps.progress(f"3. Training the dual encoder on {len(rows)} questions"):
        results = {"untrained": measure(BiEncoderModel(copy.deepcopy(model.config)).eval())}
        results["student's encoder"] = measure(model)
        settings = {"steps": NUM_STEPS["nce"], "batch_size": 48, "learning_rate_factor": 1.5}
        steps.train_retriever(args, model, processor, rows, "in_batch_nce", **settings)
        results["NCE"] = measure(model)
    with steps.progress("3. Training it on the hard negatives that it finds"):
        questions = data.train.shuffle(seed=0).select(range(min(3000, len(data.train))))
        rankings, _ = rank_passages(model, processor, questions, data.passages, k=20, progress=False)
        rows = mine_hard_negatives(questions, data.passages, rankings, num_negatives=1).to_list()
        settings = {"steps": NUM_STEPS["hard"], "batch_size": 48, "learning_rate_factor": 0.3}
        steps.train_retriever(args, model, processor, rows, "in_batch_nce", **settings)
        results["NCE + hard negatives"] = measure(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return results


# 4. The reader


def train_reader(args, data, retriever):
    """Train a reader to copy an answer, first from one sentence, then from several."""
    if args.reader is None and args.backbone is None:
        # The pieces that answers may have, and those of the common words of questions: less to choose from
        texts = [*data.passages["title"], *data.passages["text"], *data.train["question"][::10]]
        student, student_processor = retriever
        tokenizer, kept_ids = reduce_vocabulary(student_processor.tokenizer, texts)
        # Translations have similar word vectors in the student: start from these
        embeddings = student.get_input_embeddings().weight[kept_ids]
        model = mimetic_init_(FiDT5ForConditionalGeneration(steps.small_reader(tokenizer)), embeddings)
        learning_rate = 5e-3
    else:
        tokenizer, model, learning_rate = real_data.load_reader(args, data)
    n_context = args.num_sentences
    processor = FiDT5Processor(tokenizer, args.document_length, answer_maxlength=16, n_context=n_context)

    # Many answers are exchanged for others, in the sentence as in the target, so that the reader has to read
    stages = zip(NUM_STEPS["reader"], (0.6, 0.4), (0, n_context - 1), (0.2, 0.0), strict=True)
    for number, (num_steps, share, others, english) in enumerate(stages):
        settings = steps.training_settings(args, num_steps, 64, learning_rate / (1 + number))
        drawn = {"share": share, "max_sentences": others, "english": english, "seed": args.seed + number}
        with steps.progress(f"4. Training the reader on examples of {others + 1} sentence(s)"):
            examples = substitute_answers(
                data.train, data.passages, 64 * settings["max_steps"], num_distractors=0, **drawn
            )
            training_args = ReaderTrainingArguments(**settings)
            steps.run_training(ReaderTrainer(model, training_args, processor, train_dataset=examples))
    return model.eval(), processor


def all_sentences(passages):
    """The sentences of all passages, each with the title of its passage: what the reader can choose from."""
    return [
        {"id": f"{passage['id']}#{number}", **sentence}
        for passage in passages
        for number, sentence in enumerate(split_sentences(passage))
    ]


def evaluate_reader(reader, data, rankings, chosen):
    """Exact match of the answers and, for comparison, of the title of the best passage."""
    titles = dict(zip(data.passages["id"], data.passages["title"], strict=True))
    answers = steps.read(*reader, data.test["question"][:], [chosen[id] for id in data.test["id"]])
    predictions, hits = [], {"title of the best passage": {}, "reader": {}}
    for row, answer in zip(data.test, answers, strict=True):
        title = titles[rankings[row["id"]][0]]
        predictions.append({**row, "prediction": answer, "title": title, "read": chosen[row["id"]]})
        for column, text in zip(hits.values(), (title, answer), strict=True):
            column.setdefault(row["lang"], []).append(exact_match(text, row["answers"]))
    results = {
        name: steps.with_mean({lang: [round(100 * float(np.mean(values)), 1)] for lang, values in column.items()})
        for name, column in hits.items()
    }
    return results, predictions


# 5. The saved system


def default_question(data):
    """The capital of Botswana, in Korean, or the first question that is not in English."""
    korean = "보츠와나의 수도는 어디입니까?"
    return korean if "ko" in data.test["lang"] else next(r["question"] for r in data.test if r["lang"] != "en")


def show(answer):
    """Print a question, its answer, the sentences that were read, and the tokens that matched."""
    print(f"   Question  {answer['question']}\n   Answer    {answer['answer']}")
    for passage in answer["passages"]:
        print(f"   Read      {passage['title']}: {passage['text']}")
    for match in answer["passages"][0].get("matches", []):
        print(f"   Why       {match['query_token']} -> {match['passage_token']} ({match['similarity']:.2f})")


if __name__ == "__main__":
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    main()
