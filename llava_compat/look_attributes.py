"""What scripts set on a model about its looks, one attribute at a time."""

from collections.abc import Sequence

from .look_settings import Count, LookSettings


class LookAttributes:
    """The attributes of ``LookSettings`` on a model.

    ``num_look_close`` takes the place of a number of patches that the checkpoint brings, which would win
    otherwise. (Differs from the reference, where it does nothing then.)
    """

    look_close_mode: str
    max_select_num_each_scale: Sequence[int] | None
    smooth_selection_prob: bool

    def start_looks(self, settings: LookSettings) -> None:
        """Begin with what the checkpoint says."""
        self.look_settings = settings
        self._patches_of_checkpoint = True

    @property
    def num_look_close(self) -> Count:
        """See ``LookSettings``."""
        return self._num_look_close

    @num_look_close.setter
    def num_look_close(self, value: Count) -> None:
        self._num_look_close: Count = value
        if self._patches_of_checkpoint:
            self.num_token_look_close = None

    @property
    def num_token_look_close(self) -> Count:
        """See ``LookSettings``."""
        return self._num_token_look_close

    @num_token_look_close.setter
    def num_token_look_close(self, value: Count) -> None:
        self._num_token_look_close: Count = value
        self._patches_of_checkpoint = False

    @property
    def look_settings(self) -> LookSettings:
        """How closely to look, all of it at once."""
        return LookSettings(
            num_look_close=self.num_look_close,
            num_token_look_close=self.num_token_look_close,
            look_close_mode=self.look_close_mode,
            max_select_num_each_scale=self.max_select_num_each_scale,
            smooth_selection_prob=self.smooth_selection_prob,
        )

    @look_settings.setter
    def look_settings(self, settings: LookSettings) -> None:
        # The number of patches first, so that it is the caller's own when the number of looks is set.
        self.num_token_look_close = settings.num_token_look_close
        self.num_look_close = settings.num_look_close
        self.look_close_mode = settings.look_close_mode
        self.max_select_num_each_scale = settings.max_select_num_each_scale
        self.smooth_selection_prob = settings.smooth_selection_prob
