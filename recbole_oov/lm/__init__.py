"""The language-model side: backbones, prompts, the OOV vocabulary, exact scoring."""
