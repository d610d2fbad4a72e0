from .cache import capture, from_cache, to_cache
from .contexts import LoadedContext, load_context, save_context
from .costs import measure_prefill
from .identity.fingerprint import fingerprint
from .layers import windows_of
from .learning import samples, token_features
from .quality import coded_as, evaluator, noise_floor
from .rope import rope_map
from .tasks import Task, answers_right, first_tokens, task_from_text, task_text
from .text_windows import Window, answer_window, cut_windows

__all__ = [
    "LoadedContext",
    "Task",
    "Window",
    "answer_window",
    "answers_right",
    "capture",
    "coded_as",
    "cut_windows",
    "evaluator",
    "fingerprint",
    "first_tokens",
    "from_cache",
    "load_context",
    "measure_prefill",
    "noise_floor",
    "rope_map",
    "samples",
    "save_context",
    "task_from_text",
    "task_text",
    "to_cache",
    "token_features",
    "windows_of",
]
