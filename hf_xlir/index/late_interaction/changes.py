"""What an index of passages does besides searching: passages come, change and go; it is saved, loaded and merged."""

from dataclasses import replace

from datasets.search import BaseIndex

from .contents import added, check_vectors, compacted, merged, rebuilt, removed, settled, updated
from .folder import load_contents, save_contents
from .query_sample import query_moments
from .token_pooling import pool_tokens


class ChangingIndex(BaseIndex):
    r"""
    The part of [`LateInteractionIndex`] that does not search.

    Args:
        contents ([`~hf_xlir.index.late_interaction.contents.Contents`]):
            What it holds; a change replaces them.
        settings ([`~hf_xlir.index.late_interaction.contents.Settings`]):
            How it was built.
        folder ([`~hf_xlir.index.late_interaction.folder.IndexFolder`], *optional*):
            Where it was loaded from or saved to last.
    """

    def __init__(self, contents, settings, folder=None):
        self.contents, self.settings = contents, settings
        self._folder = folder

    def __reduce__(self):
        return type(self), (self.contents, self.settings)  # vectors are pickled, not where they were mapped from

    def __deepcopy__(self, memo):
        return type(self)(self.contents, self.settings, self._folder)  # contents never change

    @classmethod
    def merge(cls, indexes):
        r"""
        One index of several that share no passage, such as shards built on several machines.

        Args:
            indexes (`list[LateInteractionIndex]`):
                Their rows follow each other. Segments and their codecs stay what they are, so that a search finds
                what searches of all of them find; [`~.rebuild`] makes them one.

        Returns:
            [`LateInteractionIndex`]: It shares memory with them, and changes of one are not seen by another. Later
            additions follow the settings of the first.

        Raises:
            ValueError: If there are none, their vectors have different sizes, they were built with different `nbits`
                or `pooling_factor`, or an id is in two of them.
        """
        indexes = list(indexes)
        if not indexes:
            raise ValueError("`indexes` is empty: give at least one.")
        kinds = {(each.embedding_dim, each.settings.nbits, each.settings.pooling_factor) for each in indexes}
        if len(kinds) > 1:
            raise ValueError(
                "Indexes are merged if they have the same `embedding_dim`, `nbits` and `pooling_factor`, got "
                f"{sorted(kinds, key=str)}: build them alike."
            )
        contents = merged([each.contents for each in indexes])
        if len(contents.row_of_id) < len(contents.ids):
            twice = [id for row, id in enumerate(contents.ids) if contents.row_of_id[id] != row]
            raise ValueError(
                f"{len(twice)} ids are in several indexes, such as {twice[:5]}: `remove` them from all but one."
            )
        return cls(contents, indexes[0].settings)

    def __len__(self):
        return len(self.contents.ids)

    @property
    def ids(self):
        """The passages' ids, in the order of rows."""
        return self.contents.ids

    @property
    def embedding_dim(self):
        """Number of dimensions of a vector."""
        return self.contents.embedding_dim

    @property
    def num_tokens(self):
        """Number of token vectors."""
        return self.contents.num_tokens

    @property
    def nbytes(self):
        """Bytes of all vectors, of what finds them, and of centroids."""
        codecs = {id(each.training): each.training.codec for each in self.contents.segments if each.training}
        return sum(each.tokens.nbytes for each in self.contents.segments) + sum(
            array.nbytes for codec in codecs.values() for array in codec.arrays().values()
        )

    def add(self, embeddings, maintain=True):
        r"""
        Add passages, behind those that are there.

        Args:
            embeddings ([`TokenEmbeddings`]):
                Their vectors, of the same model. None of the ids may be in the index already.
            maintain (`bool`, *optional*, defaults to `True`):
                Whether to put the index in order where a limit is passed; see [`LateInteractionIndex`].

        Raises:
            ValueError: If an id is in the index already, or vectors are of another size or not finite; nothing is
                changed then.
        """
        self._change(added, embeddings, maintain)

    def update(self, embeddings, maintain=True):
        r"""
        Replace the vectors of passages, which keep their rows.

        Args:
            embeddings ([`TokenEmbeddings`]):
                Their new vectors. All ids must be in the index.
            maintain (`bool`, *optional*, defaults to `True`):
                As for [`~LateInteractionIndex.add`].

        Raises:
            ValueError: If an id is not in the index, or vectors are of another size or not finite; nothing is changed
                then.
        """
        self._change(updated, embeddings, maintain)

    def remove(self, ids, maintain=True):
        r"""
        Remove passages; no search that starts afterwards finds them. All may be removed, and others added then.

        Args:
            ids (`Iterable[str]`):
                Their ids.
            maintain (`bool`, *optional*, defaults to `True`):
                As for [`~LateInteractionIndex.add`].

        Raises:
            ValueError: If an id is not in the index; nothing is changed then.
        """
        self.contents = settled(removed(self.contents, ids), self.settings, maintain)

    def compact(self):
        """Drop what is left of removed passages, and join segments that share a codec. Results stay what they are."""
        self.contents = compacted(self.contents)

    def rebuild(self, embeddings=None, queries=None):
        r"""
        Compress everything anew, with new centroids, into one segment.

        Args:
            embeddings ([`TokenEmbeddings`], *optional*):
                Original vectors of all passages of the index, in any order; further passages are ignored. Without
                them the compressed vectors are decoded and rounded a second time.
            queries ([`QueryEmbeddings`], *optional*):
                As for [`LateInteractionIndex.build`]. By default, what counted there does.

        Raises:
            ValueError: If a passage of the index is not in `embeddings`, or vectors are of another size or not finite.
        """
        contents = self.contents
        if queries is not None:
            contents = replace(contents, query_moments=query_moments(queries, self.embedding_dim))
        if embeddings is not None:
            check_vectors(embeddings, self.embedding_dim)
            embeddings = pool_tokens(embeddings, self.settings.pooling_factor)
        self.contents = rebuilt(contents, self.settings, embeddings)

    def save(self, path, overwrite=False):
        r"""
        Write the index to a folder, all at once: until the end, readers of an index already there see the old one,
        and go on with it. Where the index was loaded from, or saved to, before, only what changed is written.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether to replace what somebody else has saved there since this index was loaded from there or saved
                to there.

        Raises:
            ValueError: If somebody else has saved there since, or the folder holds something else, such as embeddings.
            OSError: If the folder cannot be written to (`PermissionError`), or is full; what it held is unchanged.
        """
        folder = self._folder
        if folder is not None and folder.is_at(path) and folder.has_changed and not overwrite:
            raise ValueError(
                f"`{path}` was changed by another writer since this index was loaded from there or saved to there: "
                "load it again and repeat your changes, save to another folder, or give `overwrite=True` to drop what "
                "the other wrote."
            )
        self._folder = save_contents(self.contents, self.settings, path, folder)

    @classmethod
    def load(cls, path, verify=False):
        r"""
        Open an index written by [`~LateInteractionIndex.save`]; vectors stay on disk until they are searched.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            verify (`bool`, *optional*, defaults to `False`):
                Whether to compare all checksums first, which reads everything once. By default those of files up to
                16 MiB are, and the sizes of all.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds no such index, one of a later version, or one of its files is missing, truncated or
                altered.
        """
        return cls(*load_contents(path, verify))

    def _change(self, change, embeddings, maintain):
        check_vectors(embeddings, self.embedding_dim)
        change(self.contents, embeddings)  # complains about ids before the work
        embeddings = pool_tokens(embeddings, self.settings.pooling_factor)
        self.contents = settled(change(self.contents, embeddings), self.settings, maintain)


__all__ = ["ChangingIndex"]
