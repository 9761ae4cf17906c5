// Failures before the first chunk, which are statuses, and after it, which are the last event of the stream.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, ask, collect, connect, user } from './harness.mjs';

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail('it did not fail');
}

const said = ({ type, code, param }) => ({ type, code, param });

for (const { name, model, request, cls, status, retry, ...expected } of agents.failing) {
  for (const form of ['whole', 'streamed', 'helper']) {
    test(`${name}, ${form}`, async () => {
      const { client, sent } = connect({ base: agents.hasty });
      const { messages = [user('hi')], ...fields } = { model: model[form], ...request };
      const asked =
        form === 'helper'
          ? client.chat.completions.stream({ messages, ...fields }).done()
          : ask(client, fields.model, messages, { ...fields, stream: form === 'streamed' });
      const error = await failure(asked);
      assert.equal(error.constructor, OpenAI[cls], String(error));
      assert.deepEqual(said(error), expected);
      assert.equal(error.status, status);
      assert.ok(error.requestID.startsWith('req_'));
      assert.ok(error.message.includes(error.error.message));
      assert.equal(error.headers.get('x-should-retry'), retry);
      assert.equal(sent.count, 1);
    });
  }
}

for (const { name, model, ...expected } of agents.breaking) {
  test(`after the first chunk: ${name}, streamed`, async () => {
    const { client, sent } = connect({ maxRetries: 2 });
    const answer = { text: '', reasoning: '', calls: [], chunks: [] };
    const stream = await client.chat.completions.create({
      model: model.streamed,
      messages: [user('hi')],
      stream: true,
    });
    const error = await failure(collect(stream, answer));
    assert.equal(error.constructor, OpenAI.APIError);
    assert.deepEqual(said(error), { ...expected, param: null });
    assert.ok(error.message);
    assert.deepEqual([answer.reasoning, answer.text, answer.finish], ['Hm.', 'Hello', undefined]);
    assert.equal(sent.count, 1);
  });

  test(`after the first chunk: ${name}, through the helper`, async () => {
    const { client, sent } = connect({ maxRetries: 2 });
    const runner = client.chat.completions.stream({ model: model.helper, messages: [user('hi')] });
    let text = '';
    let errors = 0;
    runner.on('content', (delta) => (text += delta));
    runner.on('error', () => (errors += 1));
    const error = await failure(runner.finalChatCompletion());
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.deepEqual(said(error), { ...expected, param: null });
    assert.deepEqual([text, errors], ['Hello', 1]);
    assert.equal(sent.count, 1);
  });
}
