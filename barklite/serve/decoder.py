"""Continuous batching: requests join and leave a running batch between steps."""

from collections.abc import Hashable

from ..bark import Bark, Request
from ..clip import Clip
from ..config import GenerationConfig
from ..decode.pipeline import RequestState


class Decoder:
    """The pipeline of `Bark.generate_many`, one step at a time.

    A clip does not depend on other requests: it equals that of `Bark.generate`.
    """

    def __init__(self, bark: Bark, config: GenerationConfig | None = None, batch_size: int | None = None):
        """config: of all requests; None uses the checkpoint's. batch_size: as in `Bark.generate_many`.

        ValueError for bad settings, and for a Bark with `offload`, because every step runs all models.
        """
        if bark.offload:
            raise ValueError("a server cannot use offload: it needs all models on the device")
        self.bark, self.config = bark, bark.settings(config)
        self.size = bark.batch_size(batch_size, self.config)
        self._states: dict[Hashable, RequestState] = {}
        self._pipeline = bark.pipeline(self.config, self.size, fine_batch_size=1)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def room(self) -> bool:
        """Whether a request submitted now would begin at the next step."""
        return self._pipeline.room

    def submit(self, key: Hashable, request: Request) -> None:
        """Submit a request. `step` returns its error if it is invalid."""
        try:
            state = self.bark.state(key, request, self.config)
        except (ValueError, OSError) as error:
            state = RequestState(key, request.text, error=error)
        self._states[key] = state
        self._pipeline.submit(state)

    def cancel(self, key: Hashable) -> None:
        """Drop a request and free its slot. Does nothing if it is done or unknown."""
        if key in self._states:
            self._pipeline.cancel(self._states.pop(key))

    def step(self) -> list[tuple[Hashable, Clip | Exception]]:
        """Run one step of the pipeline. Return (key, Clip or error) of each request that is done."""
        done = self._pipeline.step()
        for state in done:
            del self._states[state.index]
        return [
            (state.index, self.bark.clip(state) if state.error is None else state.error) for state in done
        ]

    def close(self) -> None:
        """Free the memory of the slots."""
        self._pipeline.__exit__()
