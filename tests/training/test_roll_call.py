"""Before they join, all processes know who is missing."""

import concurrent.futures
import socket
import time

import pytest
from helpers import trainer

from sparsejax import command_line
from sparsejax.training import roll_call


def call_all(members, *, seconds):
  """Calls in one thread per process; returns what each of them raised."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    calls = [pool.submit(roll_call.call, m, seconds=seconds) for m in members]
    return [call.exception() for call in calls]


def members(indices, count):
  address = f"127.0.0.1:{trainer.free_port()}"
  return [roll_call.Member(address, index, count) for index in indices]


def test_all_are_here_in_any_order():
  assert call_all(members([3, 1, 0, 2], 4), seconds=60.0) == [None] * 4


def test_missing_processes_are_named_in_every_process():
  for error in call_all(members([0, 2, 5], 6), seconds=0.3):
    assert isinstance(error, command_line.PeerError)
    assert "Processes 1, 3, 4 of 6 did not come within 0.3 s" in str(error)
    assert "`--join_timeout_seconds`" in str(error)


def test_missing_process_0_is_named():
  (error,) = call_all(members([1], 2), seconds=0.3)
  assert isinstance(error, command_line.PeerError)
  assert "Process 0 of 2 did not come within 0.3 s" in str(error)


def test_two_processes_of_one_index_are_refused():
  first, second, third = call_all(members([0, 1, 1], 3), seconds=10.0)
  assert isinstance(first, command_line.InputError)
  assert "`--process_id` is 1 for two processes" in str(first)
  assert str(second) == str(third) == str(first)


def test_other_number_of_processes_is_refused():
  one, two = members([0, 1], 2)
  errors = call_all([one, two._replace(processes=3)], seconds=10.0)
  for error in errors:
    assert isinstance(error, command_line.InputError)
    assert "`--num_processes` is 2 in process 0" in str(error)


def test_whoever_else_connects_is_ignored():
  one, two = members([0, 1], 2)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(roll_call.call, one, seconds=60.0)
    host, port = one.address.split(":")
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b""):
      connect(host, int(port), text)
    second = pool.submit(roll_call.call, two, seconds=60.0)
    assert first.exception() is None and second.exception() is None


def connect(host, port, text):
  """Says something else to process 0, as a scanner of ports does."""
  while True:
    try:
      with socket.create_connection((host, port)) as connection:
        connection.sendall(text)
        return
    except ConnectionRefusedError:
      time.sleep(0.01)


def test_port_in_use_is_refused():
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(command_line.InputError, match="Use another port"):
      roll_call.call(roll_call.Member(address, 0, 2), seconds=0.3)
