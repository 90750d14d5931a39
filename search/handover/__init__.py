"""What a study leaves behind: the exported model, its answers, its server, its dashboards."""
