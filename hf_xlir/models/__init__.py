"""Configurations, models and processors of the families, and the record that describes each family."""

from .auto import (
    FAMILIES,
    ModelFamily,
    check_processor,
    family_of,
    hub_export,
    load_reader,
    load_retriever,
    register_family,
    register_for_hub_export,
)
from .configuration_retriever import RetrieverConfig
from .late_interaction import maxsim_matches, maxsim_pair_scores, maxsim_scores
from .modeling_fid_t5 import FiDT5Output
from .modeling_retriever import RetrieverOutput
from .processing_fid_t5 import generate_answers


__all__ = [
    "FAMILIES",
    "FiDT5Output",
    "ModelFamily",
    "RetrieverConfig",
    "RetrieverOutput",
    "check_processor",
    "family_of",
    "generate_answers",
    "hub_export",
    "load_reader",
    "load_retriever",
    "maxsim_matches",
    "maxsim_pair_scores",
    "maxsim_scores",
    "register_family",
    "register_for_hub_export",
]
