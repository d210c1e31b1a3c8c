"""`triple` needs the number of classes; the model builder passes it on, and by hand you do."""

from nas_attn import Context, create_attention

attention = create_attention("triple", channels=64, hidden=16, context=Context(num_classes=10))
