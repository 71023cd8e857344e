"""Cross-lingual retrieval and open-domain question answering for Hugging Face users."""
