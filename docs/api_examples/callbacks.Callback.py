"""Told of the end of each trial and of the run; override what you need. One that raises never ends the search."""

from nas_attn.callbacks import Callback


class PrintValues(Callback):
    def on_trial_end(self, record):
        print(record.stage, record.number, record.state, record.value, record.placement)


callback = PrintValues()  # search(..., callbacks=[callback, function_of_a_row])
