// The client's tools: calls and results by hand, through the stream helper, and in the loop of runTools.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { agents, ask, connect, oslo, quotedResults, rome, tools, user } from './harness.mjs';

const oneCall = `say Looking.\ncall get_weather ${rome}`;
const threeCalls = `call get_weather ${rome}\ncall read_file\ncall get_weather ${oslo}`;
const expected = [
  ['get_weather', rome],
  ['read_file', '{}'],
  ['get_weather', oslo],
];
const named = (calls) => calls.map((call) => [call.function.name, call.function.arguments]);
const { client } = connect();

for (const stream of [false, true]) {
  const form = stream ? 'streamed' : 'whole';

  test(`one call and its result, ${form}`, async () => {
    const model = agents[`one call ${form}`];
    const asked = await ask(client, model, oneCall, { stream, tools });
    assert.equal(asked.text, 'Looking.');
    assert.equal(asked.finish, 'tool_calls');
    assert.deepEqual(named(asked.calls), [['get_weather', rome]]);
    const messages = [
      user(oneCall),
      { role: 'assistant', content: asked.text, tool_calls: asked.calls },
      { role: 'tool', tool_call_id: asked.calls[0].id, content: '18 C' },
    ];
    const answer = await ask(client, model, messages, { stream, tools });
    assert.deepEqual(quotedResults(answer.text), ['18 C']);
    assert.equal(answer.finish, 'stop');
  });

  test(`three calls and their results, ${form}`, async () => {
    const model = agents[`three calls ${form}`];
    const asked = await ask(client, model, threeCalls, { stream, tools });
    assert.deepEqual(named(asked.calls), expected);
    assert.ok(asked.calls.every((call) => call.type === 'function'));
    const results = asked.calls.map((call, number) => ({
      role: 'tool',
      tool_call_id: call.id,
      content: `result ${number}`,
    }));
    const messages = [user(threeCalls), { role: 'assistant', content: null, tool_calls: asked.calls }, ...results];
    const answer = await ask(client, model, messages, { stream, tools });
    assert.deepEqual(quotedResults(answer.text), ['result 0', 'result 1', 'result 2']);
    assert.equal(answer.finish, 'stop');
  });

  test(`a user message instead of results, ${form}`, async () => {
    const model = agents.moody;
    const asked = await ask(client, model, oneCall, { stream, tools });
    const messages = [user(oneCall), { role: 'assistant', content: null, tool_calls: asked.calls }];
    messages.push(user('say Never mind.'));
    assert.equal((await ask(client, model, messages, { stream, tools })).text, 'Never mind.');
  });

  test(`runTools, ${form}`, async () => {
    const given = [];
    const run = (args) => {
      given.push(args);
      return `${args.city ?? 'a file'}: fine`;
    };
    const runnable = tools.map((tool) => ({
      type: 'function',
      function: { ...tool.function, function: run, parse: JSON.parse },
    }));
    const runner = client.chat.completions.runTools({
      model: agents[`loop ${form}`],
      messages: [user(threeCalls)],
      tools: runnable,
      stream,
    });
    const answer = await runner.finalContent();
    assert.deepEqual(quotedResults(answer), ['Rome: fine', 'a file: fine', 'Oslo: fine']);
    assert.deepEqual(given, [JSON.parse(rome), {}, JSON.parse(oslo)]);
  });
}

test('the stream helper', async () => {
  const runner = client.chat.completions.stream({ model: agents.moody, messages: [user(threeCalls)], tools });
  const done = [];
  runner.on('tool_calls.function.arguments.done', (event) => done.push([event.name, event.arguments]));
  const completion = await runner.finalChatCompletion();
  assert.deepEqual(named(completion.choices[0].message.tool_calls), expected);
  assert.deepEqual(done, expected);
  assert.equal(completion.choices[0].finish_reason, 'tool_calls');
});
