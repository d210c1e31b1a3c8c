"""Every error that a user can cause is a `NasAttnError`; its message is one sentence that says what to do."""

from nas_attn import NasAttnError, create_attention

try:
    create_attention("cbma", channels=64)
except NasAttnError as error:
    print(error)  # Unknown attention 'cbma': did you mean 'cbam'? ...
