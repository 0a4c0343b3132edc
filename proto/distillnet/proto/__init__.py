"""The contract both halves share: gRPC messages, MQTT topics and payloads, the student card and the student file.

Imports nothing but the standard library, protobuf, grpc and pydantic, so that a subscriber or a tool can use it alone.
"""
