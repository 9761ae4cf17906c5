// Letta's stream cut anywhere: the whole answer or an error, never a silent end.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, collect, connect, tools, user } from './harness.mjs';

const { whole } = agents;

function check({ at, type }, answer, error) {
  const where = `cut at ${at}`;
  const calls = answer.calls.map(({ id, function: { name, arguments: text } }) => [id, name, text]);
  if (type === null) {
    assert.equal(error, undefined, where);
    assert.deepEqual([answer.text, calls, answer.finish], [whole.text, whole.calls, 'tool_calls'], where);
    return;
  }
  assert.ok(error instanceof OpenAI.APIError, `${where}: ${error}`);
  assert.deepEqual([error.type, error.code], [type, 'upstream_error'], where);
  assert.ok(whole.text.startsWith(answer.text), where);
  assert.equal(answer.finish, undefined, where);
}

const empty = () => ({ text: '', reasoning: '', calls: [], chunks: [] });

test('streamed', async () => {
  let count = 0;
  for (const cut of agents.cuts) {
    const { client, sent } = connect({ maxRetries: cut.retries });
    const answer = empty();
    const request = { model: cut.model.streamed, messages: [user('hi')], tools, stream: true };
    let error;
    try {
      await collect(await client.chat.completions.create(request), answer);
    } catch (caught) {
      error = caught;
    }
    check(cut, answer, error);
    count += sent.count;
  }
  assert.equal(count, agents.cuts.length);
});

for (const form of ['whole', 'helper']) {
  test(form, async () => {
    let count = 0;
    for (const cut of agents.cuts) {
      const { client, sent } = connect({ maxRetries: cut.retries });
      const answer = empty();
      const request = { model: cut.model[form], messages: [user('hi')], tools };
      let error;
      try {
        const completion = await (form === 'whole'
          ? client.chat.completions.create(request)
          : client.chat.completions.stream(request).finalChatCompletion());
        const [{ message, finish_reason }] = completion.choices;
        Object.assign(answer, { text: message.content, calls: message.tool_calls, finish: finish_reason });
      } catch (caught) {
        error = caught;
      }
      check(cut, answer, error);
      count += sent.count;
    }
    assert.equal(count, agents.cuts.length);
  });
}
