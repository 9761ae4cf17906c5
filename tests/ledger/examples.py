"""Histories by name, one for each thing that clients do: the same in front of the core and of a real Letta."""

from typing import Final

from ledger.core import Ending, How
from ledger.explore import History
from ledger.histories import Do, Habits, Shows, Step
from ledger.letta import Pace

#: A client stops an answer of which Letta keeps nothing, and one whose step ends before Letta notices.
EARLY: Final = Ending(how=How.STOPPED, at=3)
LATE: Final = Ending(how=How.STOPPED, at=4, pace=Pace.LATE)
FAILED: Final = Ending(how=How.FAILED, at=3)


def say(word: str = "talk", *, client: int = 0, replica: int = 0) -> Step:
    """A user message with nothing wrong on its way."""
    return Step(do=Do.SAY, word=word, client=client, replica=replica)


HISTORIES: Final[dict[str, History]] = {
    "stopped in the first step": (
        (Habits(),),
        (Step(do=Do.SAY, ending=EARLY), say(), Step(do=Do.SAY, ending=EARLY, shows=Shows.EMPTY)),
    ),
    "stopped behind the last word": (
        (Habits(),),
        (Step(do=Do.SAY, ending=LATE), say(), Step(do=Do.SAY, ending=LATE), Step(do=Do.RETRY)),
    ),
    "failed, then retried and given up": (
        (Habits(),),
        (say(), Step(do=Do.SAY, ending=FAILED), Step(do=Do.RETRY), Step(do=Do.RESTART)),
    ),
    "edited and asked for another answer": (
        (Habits(),),
        (say(), Step(do=Do.REGENERATE), Step(do=Do.EDIT), say(), Step(do=Do.EDIT, count=2)),
    ),
    "a trimmed front": (
        (Habits(key="chat-1"),),
        (say(), say(), Step(do=Do.TRIM, count=2), say(), Step(do=Do.TRIM, count=2), say(replica=1)),
    ),
    "yes and yes": (
        (Habits(key="chat-1"),),
        (say("yes"), say("yes"), say(), say("yes"), Step(do=Do.RESTART)),
    ),
    "no answers in the transcript": (
        (Habits(keeps_answers=False),),
        (say(), Step(do=Do.SAY, ending=EARLY), say(), Step(do=Do.RESTART)),
    ),
    "calls that are hidden until they have results": (
        (Habits(hides_calls=True),),
        (say("call"), say(), Step(do=Do.RESULTS), say("calls"), Step(do=Do.RESULTS)),
    ),
    "results in time, late, and never": (
        (Habits(),),
        (say("calls"), Step(do=Do.RESULTS), say("call"), say(), Step(do=Do.RESULTS), say("call")),
    ),
    "results under ids of the client's own": (
        (Habits(renames_calls=True),),
        (say("call"), Step(do=Do.RESULTS), say("calls"), Step(do=Do.RESTART), Step(do=Do.RESULTS)),
    ),
    "instructions that change, nudges and a greeting": (
        (Habits(greets=True),),
        (
            Step(do=Do.INSTRUCT),
            say(),
            Step(do=Do.INSTRUCT),
            say(),
            Step(do=Do.NUDGE),
            Step(do=Do.RESTART),
            Step(do=Do.INSTRUCT),
        ),
    ),
    "two clients in one thread": (
        (Habits(), Habits(greets=True)),
        (say(client=1), say("call"), say(client=1), Step(do=Do.RESULTS), say(client=1)),
    ),
    "the agent's own tools, and a process that ends between any two": (
        (Habits(),),
        (
            say("work"),
            Step(do=Do.RESTART),
            Step(do=Do.SAY, ending=EARLY),
            say("work"),
            Step(do=Do.RESTART),
            say("call"),
            Step(do=Do.RESTART),
            Step(do=Do.RESULTS),
        ),
    ),
}
