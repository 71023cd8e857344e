"""The part of a Trainer that shares a model: its card, and a repository that loads without this package."""

import shutil
from concurrent.futures import wait
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging

from ..hub.cards import build_model_card, listed
from ..hub.metadata import CARD, LICENSE, check_metadata
from ..hub.upload import files_of, push_files
from ..models.auto import hub_export
from .training_facts import TrainingRecord, evaluation_facts, measured_emissions, name_of, training_facts


logger = logging.get_logger(__name__)

# Checkpoints, and the pickled arguments: loading a pickle runs code
UNPUBLISHED = ("_*", f"{PREFIX_CHECKPOINT_DIR}-*", TRAINING_ARGS_NAME)


class PublishableArguments:
    """
    Arguments of a [`~transformers.Trainer`] whose pickles and deep copies do not contain `hub_token`: the Trainer
    uploads a pickle with each checkpoint.
    """

    def __getstate__(self):
        return {**self.__dict__, "hub_token": None}


class PublishingMixin:
    """A [`~transformers.Trainer`] whose cards say what it knows and whose repositories contain the model's code."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._publishing = self.args.push_to_hub
        self._card_arguments = None  # of the last card
        self.add_callback(TrainingRecord())

    def objective_facts(self):
        """The training objective as rows of the card's table, `{name: text}`."""
        return {}

    def objective_arguments(self):
        """The arguments of [`~hf_xlir.hub.build_model_card`] that the objective decides: `objective`, `papers`."""
        objective = getattr(self, "objective", None)  # a reader's trainer has none
        return {} if objective is None else {"objective": objective.name, "papers": objective.papers}

    def create_model_card(
        self,
        language=None,
        license=None,
        tags=None,
        model_name=None,
        finetuned_from=None,
        tasks=None,
        dataset_tags=None,
        dataset=None,
        dataset_args=None,
        evaluations=None,
        limitations=None,
        license_name=None,
        license_link=None,
    ):
        r"""
        Write a model card to `output_dir`, from the Trainer's state and the arguments.

        Args:
            language (`str` or `list[str]`, *optional*):
                Codes of the languages that the model was trained for.
            license (`str`, *optional*):
                The Hub's name of the license, such as `"apache-2.0"`.
            tags (`str` or `list[str]`, *optional*):
                Tags in addition to those of the family.
            model_name (`str`, *optional*):
                What the card's examples call `from_pretrained` with. By default the repository's id, or the name of
                `output_dir`.
            finetuned_from (`str` or `list[str]`, *optional*):
                Models that it was made from. By default the repository that the model was loaded from, if any.
            tasks (`str`, *optional*):
                The Hub's `pipeline_tag`. By default that of the family.
            dataset_tags, dataset, dataset_args (`str` or `list[str]`, *optional*):
                Training data: ids on the Hub, names, and parts of datasets.
            evaluations (`dict`, *optional*):
                Results by dataset, measure and language, see [`~hf_xlir.hub.build_model_card`]. The last evaluation
                during training is reported separately, since the Trainer does not know the name of its data.
            limitations (`list[str]`, *optional*):
                Sentences in addition to those of the family.
            license_name, license_link (`str`, *optional*):
                For `license="other"`: the license's name, and a link to its text.

        Raises:
            ValueError: If a result is not a finite number.
        """
        given = dict(locals())
        if not self.is_world_process_zero():
            return
        # For the cards of later checkpoints, which have other results
        self._card_arguments = {name: value for name, value in given.items() if name not in ("self", "evaluations")}
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        training, model = training_facts(self), self.accelerator.unwrap_model(self.model)
        source, is_on_the_hub = name_of(model)
        if finetuned_from is None and is_on_the_hub:
            finetuned_from = source
        elif finetuned_from is None and source and training:
            training = {"Started from": f"the folder `{Path(source).name}`", **training}
        card = build_model_card(
            model.config,
            model_name or self.hub_model_id or folder.absolute().name,
            language=language,
            license=license,
            datasets=[*listed(dataset_tags), *listed(dataset), *listed(dataset_args)],
            base_model=finetuned_from,
            tags=tags,
            pipeline_tag=tasks,
            training={**training, **evaluation_facts(self)},
            evaluations=evaluations,
            limitations=limitations,
            license_name=license_name,
            license_link=license_link,
            exported_code=any(folder.glob("modeling_*.py")),
            emissions=measured_emissions(self),
            **self.objective_arguments(),
        )
        card.save(folder / CARD)

    def push_to_hub(
        self,
        commit_message="End of training",
        blocking=True,
        token=None,
        revision=None,
        private=None,
        **kwargs,
    ):
        r"""
        Save the model, its processor, their code and a card to `output_dir`, and upload that folder without
        checkpoints and pickles to `hub_model_id`. It is one commit: readers see the old version or the new one.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                First line of the commit message.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait for the upload.
            token (`str`, *optional*):
                By default `hub_token`, or the token of the logged-in user.
            revision (`str`, *optional*):
                The branch, created if it does not exist. By default `hub_revision`, or `"main"`.
            private (`bool`, *optional*):
                Whether a new repository is private.
            kwargs:
                Arguments of [`~PublishingMixin.create_model_card`].

        Returns:
            [`~huggingface_hub.CommitInfo`], or a `Future` of it if `blocking=False`. `None` on processes other than
            the first.

        Raises:
            ValueError: If the card's metadata are not valid.
            huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
        """
        given = {name: kwargs.get(name) for name in ("language", *LICENSE)}
        check_metadata({**given, "pipeline_tag": kwargs.get("tasks")})
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            if private is not None:  # `init_hf_repo` takes it only from transformers 5.23 on
                self.args.hub_private_repo = private
            self.init_hf_repo(token=token)
        before, self._publishing = self._publishing, True
        try:
            self.save_model(_internal_call=True)
        finally:
            self._publishing = before
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        arguments = {
            "files": files_of(self.args.output_dir, UNPUBLISHED),
            "repo_id": self.hub_model_id,
            "replaced": (TRAINING_ARGS_NAME,),
            "private": private,
            "token": token,
            "revision": self.args.hub_revision if revision is None else revision,
            "commit_message": commit_message,
        }
        return push_files(**arguments) if blocking else HfApi().run_as_future(push_files, **arguments)

    def _save(self, output_dir=None, state_dict=None):
        with hub_export() if self._publishing else nullcontext():
            super()._save(output_dir, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        before = [] if self.push_in_progress is None else list(self.push_in_progress.jobs)
        if not self.args.hub_always_push and not all(job.done() for job in before):
            return
        wait(before)  # with `hub_always_push`, files that are being uploaded must not be overwritten
        for file in Path(checkpoint_folder).glob("*.py"):  # the Trainer copies only weights and configuration
            shutil.copy(file, self.args.output_dir)
        if self._card_arguments is not None or not Path(self.args.output_dir, CARD).exists():  # keep a user's card
            self.create_model_card(**(self._card_arguments or {}))
        with hub_export():  # the Trainer saves the processor again
            super()._push_from_checkpoint(checkpoint_folder)
        for job in self.push_in_progress.jobs:
            if job not in before:
                job.add_done_callback(partial(_log_failure, self.hub_model_id, self.state.global_step))


def _log_failure(repo_id, step, job):
    """Log that an upload in the background failed, which the Trainer does not."""
    if not job.cancelled() and (error := job.exception()) is not None:
        logger.error(
            f"The upload of step {step} to `{repo_id}` failed ({error}). Training continues, and readers see the "
            "version before. The next checkpoint is uploaded again; `trainer.push_to_hub()` uploads the current state."
        )


__all__ = ["PublishableArguments", "PublishingMixin"]
