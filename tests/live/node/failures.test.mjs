// Failures of the agent's model, before and after the answer has begun, and requests that cannot be carried out.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, ask, collect, connect, tools, user } from './harness.mjs';

const firstStep = [
  { status: 401, cls: OpenAI.InternalServerError, seen: 502, code: 'llm_authentication', requests: 1 },
  { status: 429, cls: OpenAI.RateLimitError, seen: 429, code: 'rate_limit_exceeded', requests: 2 },
  { status: 500, cls: OpenAI.InternalServerError, seen: 502, code: 'upstream_error', requests: 2 },
];
const secondStep = 'say Working.\ncall memory_insert {"label": "human", "new_string": "fail 500"}';
// Word for word the same would be a repeat: the agent would go on from what it has.
const otherStep = `${secondStep}\nsay Again.`;

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail('it did not fail');
}

for (const stream of [false, true]) {
  const form = stream ? 'streamed' : 'whole';

  for (const { status, cls, seen, code, requests } of firstStep) {
    test(`${status} in the first step, ${form}`, async () => {
      const { client, sent } = connect({ maxRetries: stream ? 1 : 0 }); // one form is enough to see repeats
      const error = await failure(ask(client, agents.failing, `fail ${status}`, { stream }));
      assert.ok(error instanceof cls);
      assert.equal(error.status, seen);
      assert.equal(error.code, code);
      assert.ok(error.requestID);
      assert.equal(sent.count, stream ? requests : 1);
      assert.equal((await ask(client, agents.failing, 'say Well again.', { stream })).text, 'Well again.');
    });
  }

  test(`an unknown model, ${form}`, async () => {
    const { client, sent } = connect({ maxRetries: 2 });
    const error = await failure(ask(client, 'nobody', 'say Hello.', { stream }));
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    assert.equal(error.param, 'model');
    assert.equal(sent.count, 1);
  });

  test(`an ambiguous name, ${form}`, async () => {
    const { client, sent } = connect({ maxRetries: 2 });
    const error = await failure(ask(client, agents.twins, 'say Hello.', { stream }));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.ok(error.message.includes(agents['first twin']));
    assert.ok(error.message.includes(agents['second twin']));
    assert.equal(sent.count, 1);
    assert.equal((await ask(client, agents['first twin'], 'say Hello.', { stream })).text, 'Hello.');
  });

  test(`a forced tool that is not called, ${form}`, async () => {
    const { client } = connect();
    const error = await failure(ask(client, agents.failing, 'say Hello.', { stream, tools, tool_choice: 'required' }));
    assert.ok(error instanceof OpenAI.APIError);
    assert.deepEqual([error.status, error.code], [stream ? undefined : 424, 'invalid_reply']);
  });
}

test('500 in the second step, streamed', async () => {
  const { client, sent } = connect({ maxRetries: 2 });
  const answer = { text: '', reasoning: '', calls: [], chunks: [] };
  const messages = [user(secondStep)];
  const stream = await client.chat.completions.create({ model: agents.failing, messages, stream: true });
  const error = await failure(collect(stream, answer));
  assert.ok(error instanceof OpenAI.APIError);
  assert.equal(error.status, undefined);
  assert.equal(error.type, 'upstream_error');
  assert.equal(answer.text, 'Working.');
  assert.equal(answer.finish, undefined);
  assert.equal(sent.count, 1);
});

test('500 in the second step, through the helper', async () => {
  const { client, sent } = connect({ maxRetries: 2 });
  const runner = client.chat.completions.stream({ model: agents.failing, messages: [user(otherStep)] });
  const error = await failure(runner.finalChatCompletion());
  assert.ok(error instanceof OpenAI.APIError);
  assert.equal(error.type, 'upstream_error');
  assert.equal(sent.count, 1);
});

test('500 in the second step, whole', async () => {
  const { client, sent } = connect({ maxRetries: 2 });
  const error = await failure(ask(client, agents.failing, secondStep, { stream: false }));
  assert.equal(error.status, 424);
  assert.equal(error.type, 'upstream_error');
  assert.equal(sent.count, 1);
});
