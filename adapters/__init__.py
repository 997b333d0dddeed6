"""LoRA adapters: what they are, where they come from, whether they may be trusted. They know no Ray."""
