// Agents as models, under any name.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, ask, connect } from './harness.mjs';

const { client } = connect();

test('all are listed', async () => {
  const ids = [];
  for await (const model of client.models.list()) {
    assert.deepEqual([model.object, model.owned_by], ['model', 'letta']);
    assert.ok(model.created > 1_700_000_000);
    ids.push(model.id);
  }
  assert.equal(ids.length, agents.count);
  assert.ok(agents.names.every((name) => ids.includes(name)));
});

for (const name of agents.names) {
  test(`by name: ${name}`, async () => {
    const model = await client.models.retrieve(name);
    assert.deepEqual([model.id, model.object], [name, 'model']);
    const completion = await client.chat.completions.create({
      model: name,
      messages: [{ role: 'user', content: 'hi' }],
    });
    assert.equal(completion.model, name);
    assert.equal((await ask(client, name, 'hi', { stream: true })).text, 'Hello');
  });
}

test('an unknown one', async () => {
  const { client: stubborn, sent } = connect({ maxRetries: 2 });
  await assert.rejects(stubborn.models.retrieve('nobody'), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.param], ['model_not_found', 'model']);
    return true;
  });
  assert.equal(sent.count, 1);
});

test('base URLs', async () => {
  for (const base of agents.bases) {
    const { client: based } = connect({ base });
    assert.equal((await based.models.retrieve(agents.names[0])).id, agents.names[0]);
  }
});
