"""The tests that `pytest -m quick` chooses: about a minute, from every room."""

import re

# File -> the names of its quick tests, or "" for all.
QUICK = {
    "test_house": "",
    "test_spec": "",
    "test_quick": "",
    "test_sampling": "",
    "test_tokenizer": "golden|row$|rules|texts$|loads|bytes",
    "test_english": "cases|nothing|tabs|mail|skip|spoken",
    "test_sentences": "sentences|paragraphs|too_long|song|stays_whole|short_texts",
    "test_golden": "formula|rates|cap|trim|windows$|multinomials|logits|tokens$|greedy|suno|codec_decodes",
    "test_reference": "names|other_codebooks|short|frames",
    "test_changes": "filter|codec|engine|refuses",
    "test_bark": "a_clip$|same_seed|bad_texts|bad_settings|wav",
    "test_batch": "bad_settings|unused_noise|at_a_time",
    "test_stream": "a_file_in_parts",
    "test_score": "shapes_and|nothing_said|bad_arguments",
    "test_inspect": "^test_loss|what_is_traced|ablate_is|bad_heads",
    "test_plot": "four_panels|silence",
    "test_encode": "golden|no_sound",
    "test_quantize": "nearest|groups|bad_formats|state_keeps",
    "test_compile": "no_compiler|bad_arguments",
    "test_voice": "names|every_form|ratio|broken",
    "test_convert": "every_layout|malicious|not_a_checkpoint",
    "test_hub": "told_apart|no_token|made_again",
    "test_command_line": "makes_a_wav|version|voices_command",
    "test_corpus": "a_corpus$|rows_that_are_wrong|names_of_files",
    "test_serve": "no_one_runs|take_turns|that_is_full",
    "test_compat_configuration": "defaults|aliases|there_and_back",
    "test_compat_behaviours": "tokenizers_agree|decode_alike",
    "test_compat_users": "copies|loss_of_a_part|moves_entries",
    "test_training": "learning_rate|muon|crops|accuracy|coarse_batches|gradients_are_clipped",
    "test_training_texts": "cleaned|numbers_in_words",
    "test_training_data": "read_as_it_was_written|mel_filters",
    "test_builtin": "it_speaks|its_voices",
}


def chosen(file: str, name: str) -> bool:
    return file in QUICK and re.search(QUICK[file], name) is not None
