"""Requests that join and leave a running batch: the pipeline of `Bark.generate_many`, a step at a time."""

from collections.abc import Hashable

from ..bark import Bark, Request
from ..clip import Clip
from ..config import GenerationConfig
from ..decode.pipeline import RequestState


class Decoder:
    """Sentences that are spoken together, a step at a time.

    A clip does not depend on what else is decoded: it is the one that `Bark.generate` makes of the request.
    """

    def __init__(self, bark: Bark, config: GenerationConfig | None = None, batch_size: int | None = None):
        """config: of all requests; None takes the checkpoint's. batch_size: as in `Bark.generate_many`.

        ValueError for bad settings, and for a Bark with `offload`: a step of each model follows a step of
        another here.
        """
        if bark.offload:
            raise ValueError("offload moves a model at a time to the device, and a server needs all of them")
        self.bark, self.config = bark, bark.settings(config)
        self.size = bark.batch_size(batch_size, self.config)
        self._states: dict[Hashable, RequestState] = {}
        self._pipeline = bark.pipeline(self.config, self.size, fine_batch_size=1)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def room(self) -> bool:
        """Whether a request that is submitted now begins at the next step."""
        return self._pipeline.room

    def submit(self, key: Hashable, request: Request) -> None:
        """Begin a request; what is wrong with it comes out of `step`."""
        try:
            state = self.bark.state(key, request, self.config)
        except (ValueError, OSError) as error:
            state = RequestState(key, request.text, error=error)
        self._states[key] = state
        self._pipeline.submit(state)

    def cancel(self, key: Hashable) -> None:
        """Forget a request and free its slot. Nothing happens if it is done or unknown."""
        if key in self._states:
            self._pipeline.cancel(self._states.pop(key))

    def step(self) -> list[tuple[Hashable, Clip | Exception]]:
        """One step of the pipeline: what is done."""
        done = self._pipeline.step()
        for state in done:
            del self._states[state.index]
        return [
            (state.index, self.bark.clip(state) if state.error is None else state.error) for state in done
        ]

    def close(self) -> None:
        """Give the slots' memory back."""
        self._pipeline.__exit__()
