"""Serverless deployment: remote experts, memory and replicas under limits on the first and on every further token."""
