"""The rules of the OpenVINO backend, by families. Importing a family adds its rules to `registry.RULES`."""
