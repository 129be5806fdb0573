"""Runs nnUNetv2_train once for each line of its input, [arguments, environment, log file], and prints how it ended.

Each run is a process of its own, a fork of this one, in which everything is imported already.
"""

import contextlib
import json
import multiprocessing
import os
import resource
import sys


def train(arguments: list[str], environment: dict[str, str], log: str) -> None:
    from nnunetv2.run.run_training import run_training_entry

    os.setsid()  # the processes it starts can be told from others
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    if limit := int(os.environ.get("LARGEST_FILE", "0")):  # bytes; more is what a full disk refuses
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["nnUNetv2_train", *arguments]
    status = 1
    try:
        run_training_entry()
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    # Imported here: the processes that write predictions import this file, but need little of it.
    from nnunetv2.run import run_training

    sys.argv = ["nnUNetv2_train"]  # what the trainers' excepthook looks for
    with contextlib.redirect_stdout(sys.stderr):
        run_training.recursive_find_trainer_class_by_name("nnUNetTrainerDSVM")  # imports all trainers that there are
    multiprocessing.cpu_count = lambda: 1  # threads: tiny tensors make more of them wait for each other
    for line in sys.stdin:
        process = os.fork()
        if not process:
            train(*json.loads(line))
        _, status = os.waitpid(process, 0)
        print(json.dumps([process, os.waitstatus_to_exitcode(status)]), flush=True)


if __name__ == "__main__":
    main()
